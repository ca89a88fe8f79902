// Package jobfile reads job files: YAML in, a jobs.Job out, or every fault that can be found at once, each with its line
// and column and what would be right. It is where the kinds of sources are listed. docs/job-file.md is the reference of
// the format.
//
// Only the file itself is read: nothing that it names is opened, no gateway is asked and no environment variable put in. A
// fault found here is one that no change of the outside could mend. What a job finds at its source and its table is the
// runner's business.
//
// Relative paths in a job file start from the job file's own folder, since cron has another working directory.
package jobfile

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"drover/fleet/tick"
	"drover/jobs"
)

// File is a job file that was read without a fault. It is immutable.
type File struct {
	job      jobs.Job
	tls      *tlsFiles // nil is plain
	warnings []string

	zookeeperTLS *tlsFiles // nil is plain
	sourceTLS    *tlsFiles // nil is plain
	poolTLS      *tlsFiles // nil is plain

	schedule *tick.Settings // nil is none
}

// tlsFiles is what the job file says of TLS. The files are read when the job starts, so that they may be renewed.
type tlsFiles struct {
	at            string // the key of the section
	ca, cert, key string
	serverName    string
	insecure      bool
}

// Load reads and parses the job file at path. A fault in it is an *Errors; anything else is a file that cannot be read.
func Load(path string) (*File, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read job file: %w", err)
	}
	// Absolute, so that the paths in the job do not depend on where it was started from.
	folder, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("find the folder of job file %s: %w", path, err)
	}
	return parse(path, folder, data)
}

// Parse parses a job file's bytes; name is its path, for messages and for the relative paths in it. The error is an *Errors.
func Parse(name string, data []byte) (*File, error) {
	return parse(name, filepath.Dir(name), data)
}

func parse(name, folder string, data []byte) (*File, error) {
	d := &decoder{walker: walker{at: map[string]span{}, bad: map[string]bool{}}, folder: folder}
	if root, ok := d.parse(data); ok {
		d.root(root)
	}
	if len(d.faults) > 0 {
		sortFaults(d.faults)
		return nil, &Errors{File: name, Faults: d.faults, lines: d.lines}
	}
	return &d.file, nil
}

// Job is the job. With `gateways.tls`, Gateways.Transport.TLS is set but knows no files yet: give it what TLS returns.
func (f *File) Job() jobs.Job { return f.job }

// Warnings are things that the job file may say and that its owner should be told of at every run, a sentence each.
func (f *File) Warnings() []string { return f.warnings }

// TLS reads the files named under `gateways.tls` and makes the configuration for Gateways.Transport.TLS; nil without that
// key.
func (f *File) TLS() (*tls.Config, error) {
	return f.tls.load()
}

// ZooKeeperTLS is TLS for `gateways.zookeeper.tls`.
func (f *File) ZooKeeperTLS() (*tls.Config, error) { return f.zookeeperTLS.load() }

func (t *tlsFiles) load() (*tls.Config, error) {
	if t == nil {
		return nil, nil
	}
	c := t.base()
	if t.ca != "" {
		pem, err := os.ReadFile(t.ca)
		if err != nil {
			return nil, fmt.Errorf("read %s.ca: %w", t.at, err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("read %s.ca: %s has no certificate in PEM form", t.at, t.ca)
		}
	}
	if t.cert != "" {
		pair, err := tls.LoadX509KeyPair(t.cert, t.key)
		if err != nil {
			return nil, fmt.Errorf("read %s.cert and key: %w", t.at, err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// base is the configuration without its files. It is safe to use in place of the whole one: where that would be needed, it
// trusts less.
func (t *tlsFiles) base() *tls.Config {
	return &tls.Config{ServerName: t.serverName, InsecureSkipVerify: t.insecure, MinVersion: tls.VersionTLS12}
}

// resolve makes a path of the job file usable from any working directory.
func resolve(folder, path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(folder, strings.TrimSuffix(path, "/"))
}
