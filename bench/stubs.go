package main

import "context"

func (b *bench) ingest(ctx context.Context, a, c bool) error { return nil }
func (b *bench) limit(ctx context.Context) error  { return nil }
func (b *bench) memory(ctx context.Context) error { return nil }
func (b *bench) peers(ctx context.Context) error  { return nil }
