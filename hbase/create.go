package hbase

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"drover/hbase/thrift2"
)

func (s *TableSpec) thrift() (*thrift2.TTableDescriptor, error) {
	if err := CheckTableName(s.Name); err != nil {
		return nil, err
	}
	if len(s.Families) == 0 {
		return nil, errors.New("a table needs at least one family")
	}
	d := &thrift2.TTableDescriptor{TableName: tableName(s.Name)}
	for _, f := range s.Families {
		c, err := f.thrift()
		if err != nil {
			return nil, err
		}
		d.Columns = append(d.Columns, c)
	}
	for i, k := range s.Splits {
		if len(k) == 0 || i > 0 && bytes.Compare(s.Splits[i-1], k) >= 0 {
			return nil, fmt.Errorf("split key %d, %q: keys must ascend and none may be empty", i, k)
		}
	}
	return d, nil
}

// Create makes a table and proves, by reading its regions back, that it has the boundaries asked for. The namespace must
// exist and the table must not. An answer that says nothing certain is settled by looking at the table; a table whose
// boundaries came out wrong is deleted again, as long as it is empty.
func (a *Admin) Create(ctx context.Context, s TableSpec) error {
	d, err := s.thrift()
	if err != nil {
		return tableError("create table "+s.Name, s.Name, err)
	}
	if err := a.checkNamespace(ctx, s.Name); err != nil {
		return err
	}
	there, err := a.TableExists(ctx, s.Name)
	if err != nil {
		return err
	}
	if there {
		return tableError("create table "+s.Name, s.Name, errors.New("it exists already"))
	}
	asked := a.call(ctx, "create table", s.Name, func(ctx context.Context, c *thrift2.THBaseServiceClient) error {
		return c.CreateTable(ctx, d, s.Splits)
	})
	if isKind(asked, Canceled) {
		return asked
	}
	there, err = a.TableExists(ctx, s.Name)
	switch {
	case err != nil:
		return errors.Join(asked, err)
	case !there && isKind(asked, Never) && len(s.Splits) > 0:
		return tableError("create table "+s.Name, s.Name, fmt.Errorf("%w: %s", asked, otherWay(s)))
	case !there && asked != nil:
		return asked
	case !there:
		return tableError("create table "+s.Name, s.Name, errors.New("the gateway said it did, and the table is not there"))
	}
	return a.checkBoundaries(ctx, s)
}

func otherWay(s TableSpec) string {
	return "framed gateways of HBase 2.6 cannot pass split keys on: create the table through an unframed or HTTP gateway, or in the hbase shell: " + ShellCreate(s)
}

func tableError(op, table string, err error) error {
	return &Error{Kind: Table, Op: op, Table: table, Err: err}
}

func (a *Admin) checkNamespace(ctx context.Context, table string) error {
	ns, _ := splitName(table)
	if ns == defaultNamespace {
		return nil
	}
	err := a.call(ctx, "look for namespace of", table, func(ctx context.Context, c *thrift2.THBaseServiceClient) error {
		_, err := c.GetNamespaceDescriptor(ctx, ns)
		return err
	})
	if errors.Is(err, ErrUnknownMethod) {
		return nil // creating says the same
	}
	if isKind(err, Table) {
		return tableError("create table "+table, table,
			fmt.Errorf("namespace %s is missing or closed to this user; create it in the hbase shell: create_namespace %s: %w", ns, quote([]byte(ns)), err))
	}
	return err
}

// checkBoundaries waits until the table can be used and compares its boundaries with those asked for.
func (a *Admin) checkBoundaries(ctx context.Context, s TableSpec) error {
	for {
		ready := false
		err := a.call(ctx, "wait for table", s.Name, func(ctx context.Context, c *thrift2.THBaseServiceClient) (err error) {
			ready, err = c.IsTableAvailable(ctx, tableName(s.Name))
			return err
		})
		if err != nil {
			return err
		}
		if ready {
			break
		}
		if err := pause(ctx, pollTable); err != nil {
			return fmt.Errorf("wait for table %s: %w", s.Name, err)
		}
	}
	regions, err := a.Regions(ctx, s.Name)
	if err != nil || sameBoundaries(regions, s.Splits) {
		return err
	}
	op := "create table " + s.Name
	empty, err := a.Empty(ctx, s.Name)
	if err != nil {
		return err
	}
	if !empty {
		return tableError(op, s.Name, fmt.Errorf("it has other region boundaries than were asked for, and rows already: somebody else made it, or writes to it; delete it, or use it as it is"))
	}
	if err := a.Disable(ctx, s.Name); err != nil {
		return err
	}
	if err := a.Delete(ctx, s.Name); err != nil {
		return err
	}
	return tableError(op, s.Name, fmt.Errorf("it got other region boundaries than were asked for (%d regions instead of %d), and was deleted again while empty; %s",
		len(regions), len(s.Splits)+1, otherWay(s)))
}

func sameBoundaries(regions []Region, splits [][]byte) bool {
	if len(regions) != len(splits)+1 || len(regions[0].Start) != 0 || len(regions[len(splits)].End) != 0 {
		return false
	}
	for i, k := range splits {
		if !bytes.Equal(regions[i].End, k) || !bytes.Equal(regions[i+1].Start, k) {
			return false
		}
	}
	return true
}

// pollTable is how often a table that is being created is looked at.
const pollTable = 500 * time.Millisecond

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
