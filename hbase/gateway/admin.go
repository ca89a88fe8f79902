package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strings"

	"github.com/cockroachdb/pebble/v2"

	"drover/hbase/thrift2"
)

// forever is HBase's TTL of a family that keeps its cells, in seconds.
const forever = math.MaxInt32

// plainName is the name of a table in one form: the default namespace is left out.
func plainName(name []byte) string { return string(bytes.TrimPrefix(name, []byte("default:"))) }

func fullName(n *thrift2.TTableName) string {
	if len(n.Ns) == 0 || string(n.Ns) == "default" {
		return plainName(n.Qualifier)
	}
	return string(n.Ns) + ":" + string(n.Qualifier)
}

func tableName(full string) *thrift2.TTableName {
	ns, qualifier, found := strings.Cut(full, ":")
	if !found {
		ns, qualifier = "default", full
	}
	return &thrift2.TTableName{Ns: []byte(ns), Qualifier: []byte(qualifier)}
}

var (
	goodQualifier = regexp.MustCompile(`^[\p{L}\p{N}_][\p{L}\p{N}_.-]*$`)
	goodNamespace = regexp.MustCompile(`^[\p{L}\p{N}_]+$`)
)

// region gives the bounds of the region that holds the row.
func (t *table) region(row []byte) (start, end []byte) {
	return t.bounds(t.regionIndex(row))
}

func (t *table) regionIndex(row []byte) int {
	i, found := slices.BinarySearchFunc(t.splits, row, bytes.Compare)
	if found {
		i++
	}
	return i
}

func (t *table) bounds(i int) (start, end []byte) {
	start, end = []byte{}, []byte{}
	if i > 0 {
		start = t.splits[i-1]
	}
	if i < len(t.splits) {
		end = t.splits[i]
	}
	return start, end
}

// location says where a region is: with several pretended servers, they take turns.
func (s *Store) location(t *table, region int) *thrift2.THRegionLocation {
	port, code, no, replica := int32(serverPort), int64(startCode), false, int32(0)
	if n := int(s.spread.Load()); n > 1 {
		port += int32(region % n)
	}
	start, end := t.bounds(region)
	return &thrift2.THRegionLocation{
		ServerName: &thrift2.TServerName{HostName: serverHost, Port: &port, StartCode: &code},
		RegionInfo: &thrift2.THRegionInfo{TableName: []byte(t.name), StartKey: start, EndKey: end, Offline: &no, Split: &no, ReplicaId: &replica},
	}
}

func (h *handler) GetRegionLocation(_ context.Context, name, row []byte, _ bool) (*thrift2.THRegionLocation, error) {
	t := h.s.store.table(name)
	if t == nil {
		return nil, tableNotFound(plainName(name))
	}
	return h.s.store.location(t, t.regionIndex(row)), nil
}

func (h *handler) GetAllRegionLocations(_ context.Context, name []byte) ([]*thrift2.THRegionLocation, error) {
	regions := []*thrift2.THRegionLocation{}
	if t := h.s.store.table(name); t != nil {
		for i := range len(t.splits) + 1 {
			regions = append(regions, h.s.store.location(t, i))
		}
	}
	return regions, nil
}

func (h *handler) GetTableDescriptor(_ context.Context, name *thrift2.TTableName) (*thrift2.TTableDescriptor, error) {
	t := h.s.store.table([]byte(fullName(name)))
	if t == nil {
		return nil, tableNotFound(fullName(name))
	}
	return t.desc, nil
}

func (h *handler) TableExists(_ context.Context, name *thrift2.TTableName) (bool, error) {
	return h.s.store.table([]byte(fullName(name))) != nil, nil
}

func (h *handler) GetTableNamesByPattern(_ context.Context, pattern string, system bool) ([]*thrift2.TTableName, error) {
	re, err := regexp.Compile("^(?:" + pattern + ")$")
	if err != nil {
		return nil, internalError{err.Error()}
	}
	match := re.MatchString
	names := []*thrift2.TTableName{}
	for _, name := range h.s.store.tableNames() {
		if match(name) {
			names = append(names, tableName(name))
		}
	}
	if system {
		for _, name := range []string{"hbase:meta", "hbase:namespace"} {
			if match(name) {
				names = append(names, tableName(name))
			}
		}
	}
	return names, nil
}

// Complete checks a table to be created as HBase's gateway does before it asks the master. It gives the descriptor with HBase's
// defaults for what that leaves open, and the split keys in order. Of its error, clients learn that there was one.
func Complete(d *thrift2.TTableDescriptor, splits [][]byte) (*thrift2.TTableDescriptor, [][]byte, error) {
	if d.TableName == nil || !goodQualifier.Match(bytes.TrimPrefix(d.TableName.Qualifier, []byte("default:"))) ||
		len(d.TableName.Ns) > 0 && !goodNamespace.Match(d.TableName.Ns) {
		return nil, nil, internalError{fmt.Sprintf("Illegal table name %v", d.TableName)}
	}
	splits = slices.Clone(splits)
	slices.SortFunc(splits, bytes.Compare)
	for i, k := range splits {
		if len(k) == 0 {
			return nil, nil, internalError{"Empty split key must not be passed in the split keys."}
		}
		if i > 0 && bytes.Equal(splits[i-1], k) {
			return nil, nil, internalError{"All split keys must be unique, found duplicate: " + string(k)}
		}
	}
	if len(d.Columns) == 0 {
		return nil, nil, internalError{"no column families"}
	}
	full, err := complete(d)
	return full, splits, err
}

func (h *handler) CreateTable(_ context.Context, desc *thrift2.TTableDescriptor, splits [][]byte) error {
	full, splits, err := Complete(desc, splits)
	if err != nil {
		return err
	}
	for _, f := range full.Columns {
		if err := checkSane(f); err != nil {
			return err
		}
	}
	name := fullName(full.TableName)
	if err := h.s.faults.access(name, "CREATE"); err != nil {
		return err
	}
	s := h.s.store
	s.mu.Lock()
	defer s.mu.Unlock()
	ns := string(tableName(name).Ns)
	if _, ok := s.namespaces[ns]; !ok {
		return refused("NamespaceNotFoundException", "%s", ns)
	}
	if s.tables[name] != nil {
		return refused("TableExistsException", "%s", name)
	}
	if h.s.faults.rules.Load().noSplits && len(splits) > 0 {
		h.s.faults.wrongSplits.Add(1)
		splits = nil
	}
	s.number++
	return saving(name, s.saveLocked(newTable(name, s.number, splits, false, full)))
}

func saving(name string, err error) error {
	if err == nil {
		return nil
	}
	return ioError(true, "change table %s: %v", name, err)
}

// change makes another table of one that exists. The edit's table is a copy; its descriptor is still shared.
func (h *handler) change(n *thrift2.TTableName, edit func(t *table) error) error {
	name := fullName(n)
	if err := h.s.faults.access(name, "ADMIN"); err != nil {
		return err
	}
	s := h.s.store
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.tables[name]
	if old == nil {
		return noTable(name)
	}
	t := *old
	if err := edit(&t); err != nil {
		return err
	}
	return saving(name, s.saveLocked(newTable(name, t.number, t.splits, t.disabled, t.desc)))
}

// noTable is the master's error; the client's own is tableNotFound.
func noTable(name string) error { return refused("TableNotFoundException", "%s", name) }

func (h *handler) DeleteTable(_ context.Context, n *thrift2.TTableName) error {
	name := fullName(n)
	s := h.s.store
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tables[name]
	if t == nil {
		return noTable(name)
	}
	if !t.disabled {
		return refused("TableNotDisabledException", "Not DISABLED; tableName=%s, state=ENABLED", name)
	}
	return saving(name, s.dropLocked(t))
}

func (h *handler) TruncateTable(_ context.Context, n *thrift2.TTableName, preserveSplits bool) error {
	return h.change(n, func(t *table) error {
		if !t.disabled {
			return refused("TableNotDisabledException", "%s", t.name)
		}
		h.s.store.number++
		t.number, t.disabled = h.s.store.number, false
		if !preserveSplits {
			t.splits = nil
		}
		return nil
	})
}

func (h *handler) EnableTable(_ context.Context, n *thrift2.TTableName) error {
	return h.change(n, func(t *table) error {
		if !t.disabled {
			return ioError(false, "tableName=%s, state=ENABLED", t.name)
		}
		t.disabled = false
		return nil
	})
}

func (h *handler) DisableTable(_ context.Context, n *thrift2.TTableName) error {
	return h.change(n, func(t *table) error {
		if t.disabled {
			return refused("TableNotEnabledException", "%s", t.name)
		}
		t.disabled = true
		return nil
	})
}

func (h *handler) enabled(n *thrift2.TTableName) (found, enabled bool) {
	t := h.s.store.table([]byte(fullName(n)))
	return t != nil, t != nil && !t.disabled
}

func (h *handler) IsTableEnabled(_ context.Context, n *thrift2.TTableName) (bool, error) {
	found, enabled := h.enabled(n)
	if !found {
		return false, tableNotFound(fullName(n))
	}
	return enabled, nil
}

func (h *handler) IsTableDisabled(_ context.Context, n *thrift2.TTableName) (bool, error) {
	found, enabled := h.enabled(n)
	if !found {
		return false, tableNotFound(fullName(n))
	}
	return !enabled, nil
}

func (h *handler) IsTableAvailable(_ context.Context, n *thrift2.TTableName) (bool, error) {
	found, enabled := h.enabled(n)
	return found && enabled, nil
}

func (h *handler) AddColumnFamily(_ context.Context, n *thrift2.TTableName, c *thrift2.TColumnFamilyDescriptor) error {
	return h.column(n, c, false)
}

func (h *handler) ModifyColumnFamily(_ context.Context, n *thrift2.TTableName, c *thrift2.TColumnFamilyDescriptor) error {
	return h.column(n, c, true)
}

func (h *handler) column(n *thrift2.TTableName, c *thrift2.TColumnFamilyDescriptor, modify bool) error {
	col, err := completeFamily(c)
	if err != nil {
		return err
	}
	if err := checkSane(col); err != nil {
		return err
	}
	return h.change(n, func(t *table) error {
		desc := *t.desc
		desc.Columns = slices.Clone(desc.Columns)
		i := slices.IndexFunc(desc.Columns, func(x *thrift2.TColumnFamilyDescriptor) bool { return bytes.Equal(x.Name, col.Name) })
		switch {
		case modify && i < 0:
			return refused("InvalidFamilyOperationException", "Family '%s' does not exist, so it cannot be modified", col.Name)
		case !modify && i >= 0:
			return refused("InvalidFamilyOperationException", "Column family '%s' in table '%s' already exists so cannot be added", col.Name, t.name)
		case modify:
			desc.Columns[i] = col
		default:
			desc.Columns = append(desc.Columns, col)
		}
		sortFamilies(desc.Columns)
		t.desc = &desc
		return nil
	})
}

func sortFamilies(c []*thrift2.TColumnFamilyDescriptor) {
	slices.SortFunc(c, func(a, b *thrift2.TColumnFamilyDescriptor) int { return bytes.Compare(a.Name, b.Name) })
}

// complete gives a descriptor with HBase's defaults for what it leaves open.
func complete(d *thrift2.TTableDescriptor) (*thrift2.TTableDescriptor, error) {
	full := *d
	full.TableName = tableName(fullName(d.TableName))
	if full.Durability == nil {
		v := thrift2.TDurability_USE_DEFAULT
		full.Durability = &v
	}
	full.Columns = nil
	for _, c := range d.Columns {
		f, err := completeFamily(c)
		if err != nil {
			return nil, err
		}
		full.Columns = append(full.Columns, f)
	}
	sortFamilies(full.Columns)
	for i := 1; i < len(full.Columns); i++ {
		if bytes.Equal(full.Columns[i-1].Name, full.Columns[i].Name) {
			return nil, internalError{"Family '" + string(full.Columns[i].Name) + "' already exists so cannot be added"}
		}
	}
	return &full, nil
}

func completeFamily(c *thrift2.TColumnFamilyDescriptor) (*thrift2.TColumnFamilyDescriptor, error) {
	if len(c.Name) == 0 || c.Name[0] == '.' || bytes.ContainsAny(c.Name, ":/\\") {
		return nil, internalError{"Illegal family name " + string(c.Name)}
	}
	f := *c
	set(&f.BlockSize, 65536)
	set(&f.BloomnFilterType, thrift2.TBloomFilterType_ROW)
	set(&f.CompressionType, thrift2.TCompressionAlgorithm_NONE)
	set(&f.DfsReplication, 0)
	set(&f.DataBlockEncoding, thrift2.TDataBlockEncoding_NONE)
	set(&f.KeepDeletedCells, thrift2.TKeepDeletedCells_FALSE)
	set(&f.MaxVersions, 1)
	set(&f.MinVersions, 0)
	set(&f.Scope, 0)
	set(&f.TimeToLive, forever)
	set(&f.BlockCacheEnabled, true)
	set(&f.CacheBloomsOnWrite, false)
	set(&f.CacheDataOnWrite, false)
	set(&f.CacheIndexesOnWrite, false)
	set(&f.CompressTags, true)
	set(&f.EvictBlocksOnClose, false)
	set(&f.InMemory, false)
	if *f.MaxVersions <= 0 {
		return nil, internalError{"Maximum versions must be positive"}
	}
	return &f, nil
}

// checkSane is the master's check of a complete family.
func checkSane(f *thrift2.TColumnFamilyDescriptor) error {
	if *f.TimeToLive <= 0 {
		return refused("DoNotRetryIOException", "TTL for column family %s must be positive."+sane, f.Name)
	}
	if *f.MinVersions >= *f.MaxVersions {
		return refused("DoNotRetryIOException", "Min versions for column family %s must be less than the Max versions."+sane, f.Name)
	}
	return nil
}

const sane = " Set hbase.table.sanity.checks to false at conf or table descriptor if you want to bypass sanity checks"

func set[T any](field **T, value T) {
	if *field == nil {
		*field = &value
	}
}

func (h *handler) CreateNamespace(_ context.Context, d *thrift2.TNamespaceDescriptor) error {
	if !goodNamespace.MatchString(d.Name) {
		return ioError(true, "Failed after attempts=1, exceptions:\n%s", remote("client.RpcRetryingCaller",
			"Illegal character in namespace. Namespaces may only contain 'alphanumeric characters' from any language and digits: %s", d.Name))
	}
	s := h.s.store
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.namespaces[d.Name]; ok {
		return refused("NamespaceExistException", "Namespace %s already exists", d.Name)
	}
	conf, err := json.Marshal(d.Configuration)
	if err == nil {
		err = s.db.Set(append([]byte{keyNamespace}, d.Name...), conf, pebble.Sync)
	}
	if err != nil {
		return ioError(true, "create namespace %s: %v", d.Name, err)
	}
	s.namespaces[d.Name] = maps.Clone(d.Configuration)
	return nil
}

func (h *handler) DeleteNamespace(_ context.Context, name string) error {
	s := h.s.store
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.namespaces[name]; !ok {
		return refused("NamespaceNotFoundException", "%s", name)
	}
	if name == "default" || name == "hbase" {
		return refused("constraint.ConstraintException", "Reserved namespace %s cannot be removed.", name)
	}
	for t := range s.tables {
		if strings.HasPrefix(t, name+":") {
			return refused("constraint.ConstraintException", "Only empty namespaces can be removed. Namespace %s has tables", name)
		}
	}
	if err := s.db.Delete(append([]byte{keyNamespace}, name...), pebble.Sync); err != nil {
		return ioError(true, "delete namespace %s: %v", name, err)
	}
	delete(s.namespaces, name)
	return nil
}

func (h *handler) GetNamespaceDescriptor(_ context.Context, name string) (*thrift2.TNamespaceDescriptor, error) {
	s := h.s.store
	s.mu.RLock()
	defer s.mu.RUnlock()
	conf, ok := s.namespaces[name]
	if !ok {
		return nil, refused("NamespaceNotFoundException", "%s", name)
	}
	return &thrift2.TNamespaceDescriptor{Name: name, Configuration: maps.Clone(conf)}, nil
}

func (h *handler) ListNamespaces(context.Context) ([]string, error) {
	s := h.s.store
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.Sorted(maps.Keys(s.namespaces)), nil
}
