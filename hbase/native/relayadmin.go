package native

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tsuna/gohbase"
	"github.com/tsuna/gohbase/hrpc"
	"github.com/tsuna/gohbase/pb"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"drover/hbase/gateway"
	"drover/hbase/thrift2"
)

const metaTable = "hbase:meta"

const (
	// procedureTime bounds the wait for what the master does to a table, as HBase's client does.
	procedureTime = 10 * time.Minute

	// pollFirst is the first pause between questions after a procedure. It doubles up to pollMost.
	pollFirst = 10 * time.Millisecond
	pollMost  = time.Second
)

// fullName is a table's name in one form.
func fullName(n *thrift2.TTableName) string {
	if n == nil {
		return ""
	}
	if len(n.Ns) == 0 || string(n.Ns) == "default" {
		return plain(n.Qualifier)
	}
	return string(n.Ns) + ":" + string(n.Qualifier)
}

// pbName takes a name that fullName gave.
func pbName(table string) *pb.TableName {
	namespace, name, found := strings.Cut(table, ":")
	if !found {
		namespace, name = "default", table
	}
	return &pb.TableName{Namespace: []byte(namespace), Qualifier: []byte(name)}
}

func thriftName(n *pb.TableName) *thrift2.TTableName {
	return &thrift2.TTableName{Ns: n.GetNamespace(), Qualifier: n.GetQualifier()}
}

// tableState is pb.TableState of HBase 2, which gohbase does not have. A table that does not exist has none.
type tableState int

const (
	tableEnabled tableState = iota
	tableDisabled
	tableDisabling
	tableEnabling
)

// errNoTable says that a table has no state.
var errNoTable = errors.New("no such table")

// state reads it from where the master keeps it.
func (r *relay) state(ctx context.Context, table string) (tableState, error) {
	if table == metaTable {
		return tableEnabled, nil
	}
	get, err := hrpc.NewGet(ctx, []byte(metaTable), []byte(table), hrpc.Families(map[string][]string{"table": {"state"}}), hrpc.SkipBatch())
	if err != nil {
		return 0, err
	}
	row, err := r.hbase.rpc().(gohbase.Client).Get(get)
	if err != nil {
		return 0, err
	}
	if len(row.Cells) == 0 {
		return 0, errNoTable
	}
	value := row.Cells[0].Value
	field, kind, n := protowire.ConsumeTag(value)
	if n > 0 && field == 1 && kind == protowire.VarintType {
		if state, m := protowire.ConsumeVarint(value[n:]); m > 0 && state <= uint64(tableEnabling) {
			return tableState(state), nil
		}
	}
	return 0, fmt.Errorf("the state of %s is %x: want a number from %d to %d", table, value, tableEnabled, tableEnabling)
}

// stateOf is state for a client of the gateway.
func (r *relay) stateOf(n *thrift2.TTableName) (tableState, error) {
	ctx, cancel := relayContext()
	defer cancel()
	table := fullName(n)
	state, err := r.state(ctx, table)
	if errors.Is(err, errNoTable) {
		return 0, ioError(false, table)
	}
	return state, told(table, err)
}

// TableExists implements thrift2.THBaseService.
func (r *relay) TableExists(_ context.Context, n *thrift2.TTableName) (bool, error) {
	ctx, cancel := relayContext()
	defer cancel()
	_, err := r.state(ctx, fullName(n))
	if errors.Is(err, errNoTable) {
		return false, nil
	}
	return err == nil, told(fullName(n), err)
}

// IsTableEnabled implements thrift2.THBaseService.
func (r *relay) IsTableEnabled(_ context.Context, n *thrift2.TTableName) (bool, error) {
	state, err := r.stateOf(n)
	return err == nil && state == tableEnabled, err
}

// IsTableDisabled implements thrift2.THBaseService.
func (r *relay) IsTableDisabled(_ context.Context, n *thrift2.TTableName) (bool, error) {
	state, err := r.stateOf(n)
	return err == nil && state == tableDisabled, err
}

// IsTableAvailable implements thrift2.THBaseService: a table is when it is enabled and all its regions have a server.
func (r *relay) IsTableAvailable(_ context.Context, n *thrift2.TTableName) (bool, error) {
	ctx, cancel := relayContext()
	defer cancel()
	table := fullName(n)
	state, err := r.state(ctx, table)
	if errors.Is(err, errNoTable) {
		return false, nil
	}
	if err != nil || state != tableEnabled {
		return false, told(table, err)
	}
	if table == metaTable {
		return true, nil // it does not list itself
	}
	regions, err := r.hbase.regions(ctx, table)
	if err != nil {
		return false, told(table, err)
	}
	for _, at := range regions {
		if at.Server == "" {
			return false, nil
		}
	}
	return len(regions) > 0, nil
}

// locations gives a table's regions, none for a table that does not exist.
func (r *relay) locations(table string) ([]located, error) {
	m, err := r.maps.read(r.hbase, table)
	if err != nil || m == nil {
		return nil, told(table, err)
	}
	return m.list, nil
}

// GetAllRegionLocations implements thrift2.THBaseService.
func (r *relay) GetAllRegionLocations(_ context.Context, table []byte) ([]*thrift2.THRegionLocation, error) {
	regions, err := r.locations(plain(table))
	if err != nil {
		return nil, err
	}
	out := make([]*thrift2.THRegionLocation, len(regions))
	for i := range regions {
		out[i] = location(plain(table), &regions[i])
	}
	return out, nil
}

// GetRegionLocation implements thrift2.THBaseService.
func (r *relay) GetRegionLocation(_ context.Context, table, row []byte, _ bool) (*thrift2.THRegionLocation, error) {
	regions, err := r.locations(plain(table))
	if err != nil {
		return nil, err
	}
	i, found := slices.BinarySearchFunc(regions, row, func(l located, row []byte) int { return bytes.Compare(l.start, row) })
	if !found {
		i--
	}
	if i < 0 {
		return nil, ioError(false, plain(table))
	}
	return location(plain(table), &regions[i]), nil
}

func location(table string, l *located) *thrift2.THRegionLocation {
	host, text, _ := net.SplitHostPort(l.server)
	n, _ := strconv.ParseUint(text, 10, 16)
	port, no, replica := int32(n), false, int32(0)
	return &thrift2.THRegionLocation{
		ServerName: &thrift2.TServerName{HostName: host, Port: &port},
		RegionInfo: &thrift2.THRegionInfo{
			TableName: []byte(table), StartKey: l.start, EndKey: l.end, Offline: &no, Split: &no, ReplicaId: &replica,
		},
	}
}

// GetThriftServerType implements thrift2.THBaseService.
func (*relay) GetThriftServerType(context.Context) (thrift2.TThriftServerType, error) {
	return thrift2.TThriftServerType_TWO, nil
}

// GetClusterId implements thrift2.THBaseService.
func (r *relay) GetClusterId(context.Context) (string, error) {
	ctx, cancel := relayContext()
	defer cancel()
	c, err := within(ctx, func() (Cluster, error) { return statusOf(r.hbase.master(), r.hbase.hosts) })
	return c.ID, told("", err)
}

// GetNamespaceDescriptor implements thrift2.THBaseService.
func (r *relay) GetNamespaceDescriptor(_ context.Context, name string) (*thrift2.TNamespaceDescriptor, error) {
	ctx, cancel := relayContext()
	defer cancel()
	answer, err := askMaster(ctx, r.hbase, "GetNamespaceDescriptor", &pb.GetNamespaceDescriptorRequest{NamespaceName: &name}, &pb.GetNamespaceDescriptorResponse{})
	if err != nil {
		return nil, told("", err)
	}
	d := &thrift2.TNamespaceDescriptor{Name: string(answer.GetNamespaceDescriptor().GetName()), Configuration: map[string]string{}}
	for _, c := range answer.GetNamespaceDescriptor().GetConfiguration() {
		d.Configuration[c.GetName()] = c.GetValue()
	}
	return d, nil
}

// GetTableNamesByPattern implements thrift2.THBaseService.
func (r *relay) GetTableNamesByPattern(_ context.Context, pattern string, system bool) ([]*thrift2.TTableName, error) {
	ctx, cancel := relayContext()
	defer cancel()
	answer, err := askMaster(ctx, r.hbase, "GetTableNames", &pb.GetTableNamesRequest{Regex: &pattern, IncludeSysTables: &system}, &pb.GetTableNamesResponse{})
	if err != nil {
		return nil, told("", err)
	}
	names := []*thrift2.TTableName{}
	for _, n := range answer.GetTableNames() {
		names = append(names, thriftName(n))
	}
	return names, nil
}

// GetTableDescriptor implements thrift2.THBaseService.
func (r *relay) GetTableDescriptor(_ context.Context, n *thrift2.TTableName) (*thrift2.TTableDescriptor, error) {
	ctx, cancel := relayContext()
	defer cancel()
	table := fullName(n)
	answer, err := askMaster(ctx, r.hbase, "GetTableDescriptors", &pb.GetTableDescriptorsRequest{TableNames: []*pb.TableName{pbName(table)}}, &pb.GetTableDescriptorsResponse{})
	if err != nil {
		return nil, told(table, err)
	}
	if len(answer.TableSchema) == 0 {
		return nil, ioError(false, table)
	}
	return descriptorOf(answer.TableSchema[0]), nil
}

// CreateTable implements thrift2.THBaseService.
func (r *relay) CreateTable(_ context.Context, d *thrift2.TTableDescriptor, splits [][]byte) error {
	d, splits, err := gateway.Complete(d, splits)
	if err != nil {
		return err
	}
	group, nonce := nonces()
	return r.procedure(fullName(d.TableName), "CreateTable", &pb.CreateTableRequest{TableSchema: schemaOf(d), SplitKeys: splits, NonceGroup: group, Nonce: nonce})
}

// DeleteTable implements thrift2.THBaseService.
func (r *relay) DeleteTable(_ context.Context, n *thrift2.TTableName) error {
	group, nonce := nonces()
	table := fullName(n)
	return r.procedure(table, "DeleteTable", &pb.DeleteTableRequest{TableName: pbName(table), NonceGroup: group, Nonce: nonce})
}

// TruncateTable implements thrift2.THBaseService.
func (r *relay) TruncateTable(_ context.Context, n *thrift2.TTableName, preserveSplits bool) error {
	group, nonce := nonces()
	table := fullName(n)
	return r.procedure(table, "truncateTable", &pb.TruncateTableRequest{TableName: pbName(table), PreserveSplits: &preserveSplits, NonceGroup: group, Nonce: nonce})
}

// EnableTable implements thrift2.THBaseService.
func (r *relay) EnableTable(_ context.Context, n *thrift2.TTableName) error {
	group, nonce := nonces()
	table := fullName(n)
	return r.procedure(table, "EnableTable", &pb.EnableTableRequest{TableName: pbName(table), NonceGroup: group, Nonce: nonce})
}

// DisableTable implements thrift2.THBaseService.
func (r *relay) DisableTable(_ context.Context, n *thrift2.TTableName) error {
	group, nonce := nonces()
	table := fullName(n)
	return r.procedure(table, "DisableTable", &pb.DisableTableRequest{TableName: pbName(table), NonceGroup: group, Nonce: nonce})
}

// nonces let the master know a call again that gohbase sends twice because its connection broke. 0 is none.
func nonces() (group, nonce *uint64) {
	return proto.Uint64(rand.Uint64() | 1), proto.Uint64(rand.Uint64() | 1)
}

// procedure has the master do something to a table and waits until it is done, or was found impossible.
func (r *relay) procedure(table, name string, request proto.Message) error {
	ctx, cancel := relayContext()
	defer cancel()
	// All the answers are the same message in HBase 2, a procedure's number. gohbase's TruncateTableResponse is that of HBase 1.
	begun, err := askMaster(ctx, r.hbase, name, request, &pb.CreateTableResponse{})
	if err != nil {
		return told(table, err)
	}
	ctx, cancel = context.WithTimeout(context.Background(), procedureTime)
	defer cancel()
	for pause := pollFirst; ; pause = min(2*pause, pollMost) {
		answer, err := askMaster(ctx, r.hbase, "getProcedureResult", &pb.GetProcedureResultRequest{ProcId: proto.Uint64(begun.GetProcId())}, &pb.GetProcedureResultResponse{})
		if err != nil {
			return told(table, err)
		}
		switch answer.GetState() {
		case pb.GetProcedureResultResponse_NOT_FOUND:
			return ioError(true, fmt.Sprintf("the master does not know procedure %d any more, which was to %s %s", begun.GetProcId(), name, table))
		case pb.GetProcedureResultResponse_FINISHED:
			return failureOf(answer.Exception)
		}
		if !wait(ctx, pause) {
			return ioError(true, fmt.Sprintf("%s of %s goes on for more than %v", name, table, procedureTime))
		}
	}
}

// failureOf is why a procedure failed; nil is nothing.
func failureOf(e *pb.ForeignExceptionMessage) error {
	if e == nil {
		return nil
	}
	g := e.GetGenericException()
	text := g.GetClassName() + ": " + g.GetMessage()
	return ioError(!isFinal(text), text)
}

// masterCall asks the master for anything.
type masterCall struct {
	scanCall
	name    string
	request proto.Message
	answer  proto.Message // of the type that is expected
}

func (c *masterCall) Name() string               { return c.name }
func (c *masterCall) Description() string        { return c.name }
func (c *masterCall) NewResponse() proto.Message { return c.answer.ProtoReflect().New().Interface() }
func (c *masterCall) ToProto() proto.Message     { return c.request }

// askMaster makes a call. answer is a message of the type that comes back, and stays as it is.
func askMaster[T proto.Message](ctx context.Context, h *hbaseBackend, name string, request proto.Message, answer T) (T, error) {
	return within(ctx, func() (T, error) {
		c := &masterCall{scanCall{ctx: ctx, result: make(chan hrpc.RPCResult, 1)}, name, request, answer}
		msg, err := h.master().(gohbase.RPCClient).SendRPC(c)
		got, ok := msg.(T)
		if err == nil && !ok {
			err = fmt.Errorf("the master answered %s with %T", name, msg)
		}
		return got, err
	})
}

// attribute is a property of a family as it is in Thrift and in the master's words.
type attribute struct {
	name string
	get  func(f *thrift2.TColumnFamilyDescriptor) string // "" is unset
	set  func(f *thrift2.TColumnFamilyDescriptor, value string)

	// unsaid is a value that HBase's client does not send, because the master takes it for what is not sent.
	unsaid string
}

func (a attribute) unless(value string) attribute {
	a.unsaid = value
	return a
}

var attributes = []attribute{
	number("VERSIONS", func(f *thrift2.TColumnFamilyDescriptor) **int32 { return &f.MaxVersions }),
	number("MIN_VERSIONS", func(f *thrift2.TColumnFamilyDescriptor) **int32 { return &f.MinVersions }),
	number("TTL", func(f *thrift2.TColumnFamilyDescriptor) **int32 { return &f.TimeToLive }),
	number("BLOCKSIZE", func(f *thrift2.TColumnFamilyDescriptor) **int32 { return &f.BlockSize }),
	number("REPLICATION_SCOPE", func(f *thrift2.TColumnFamilyDescriptor) **int32 { return &f.Scope }),
	truth("BLOCKCACHE", func(f *thrift2.TColumnFamilyDescriptor) **bool { return &f.BlockCacheEnabled }),
	truth("IN_MEMORY", func(f *thrift2.TColumnFamilyDescriptor) **bool { return &f.InMemory }),
	word("COMPRESSION", thrift2.TCompressionAlgorithmFromString, func(f *thrift2.TColumnFamilyDescriptor) **thrift2.TCompressionAlgorithm { return &f.CompressionType }),
	word("BLOOMFILTER", thrift2.TBloomFilterTypeFromString, func(f *thrift2.TColumnFamilyDescriptor) **thrift2.TBloomFilterType { return &f.BloomnFilterType }),
	word("DATA_BLOCK_ENCODING", thrift2.TDataBlockEncodingFromString, func(f *thrift2.TColumnFamilyDescriptor) **thrift2.TDataBlockEncoding { return &f.DataBlockEncoding }),
	word("KEEP_DELETED_CELLS", thrift2.TKeepDeletedCellsFromString, func(f *thrift2.TColumnFamilyDescriptor) **thrift2.TKeepDeletedCells { return &f.KeepDeletedCells }),
	number("DFS_REPLICATION", func(f *thrift2.TColumnFamilyDescriptor) **int16 { return &f.DfsReplication }).unless("0"),
	truth("CACHE_BLOOMS_ON_WRITE", func(f *thrift2.TColumnFamilyDescriptor) **bool { return &f.CacheBloomsOnWrite }).unless("false"),
	truth("CACHE_DATA_ON_WRITE", func(f *thrift2.TColumnFamilyDescriptor) **bool { return &f.CacheDataOnWrite }).unless("false"),
	truth("CACHE_INDEX_ON_WRITE", func(f *thrift2.TColumnFamilyDescriptor) **bool { return &f.CacheIndexesOnWrite }).unless("false"),
	truth("COMPRESS_TAGS", func(f *thrift2.TColumnFamilyDescriptor) **bool { return &f.CompressTags }).unless("true"),
	truth("EVICT_BLOCKS_ON_CLOSE", func(f *thrift2.TColumnFamilyDescriptor) **bool { return &f.EvictBlocksOnClose }).unless("false"),
}

// field makes an attribute of a field of the descriptor. parse's error leaves it unset.
func field[T any](name string, at func(f *thrift2.TColumnFamilyDescriptor) **T, text func(T) string, parse func(string) (T, error)) attribute {
	return attribute{
		name: name,
		get: func(f *thrift2.TColumnFamilyDescriptor) string {
			if v := *at(f); v != nil {
				return text(*v)
			}
			return ""
		},
		set: func(f *thrift2.TColumnFamilyDescriptor, value string) {
			if v, err := parse(value); err == nil {
				*at(f) = &v
			}
		},
	}
}

func number[T int16 | int32](name string, at func(f *thrift2.TColumnFamilyDescriptor) **T) attribute {
	return field(name, at, func(v T) string { return strconv.Itoa(int(v)) }, func(s string) (T, error) {
		v, err := strconv.ParseInt(s, 10, 32)
		if err == nil && int64(T(v)) != v {
			err = strconv.ErrRange
		}
		return T(v), err
	})
}

func truth(name string, at func(f *thrift2.TColumnFamilyDescriptor) **bool) attribute {
	return field(name, at, strconv.FormatBool, func(s string) (bool, error) { return strconv.ParseBool(strings.ToLower(s)) })
}

func word[T fmt.Stringer](name string, parse func(string) (T, error), at func(f *thrift2.TColumnFamilyDescriptor) **T) attribute {
	return field(name, at, T.String, func(s string) (T, error) { return parse(strings.ToUpper(s)) })
}

// durability is the attribute of a table that has a field of its own in Thrift.
const durability = "DURABILITY"

// schemaOf takes a complete descriptor.
func schemaOf(d *thrift2.TTableDescriptor) *pb.TableSchema {
	s := &pb.TableSchema{TableName: pbName(fullName(d.TableName)), Attributes: pairs(d.Attributes)}
	if d.GetDurability() != thrift2.TDurability_USE_DEFAULT {
		s.Attributes = append(s.Attributes, pair(durability, d.Durability.String()))
	}
	for _, f := range d.Columns {
		out := &pb.ColumnFamilySchema{Name: f.Name, Attributes: pairs(f.Attributes)}
		for _, a := range attributes {
			if value := a.get(f); value != "" && value != a.unsaid {
				out.Attributes = append(out.Attributes, pair(a.name, value))
			}
		}
		for name, value := range f.Configuration {
			out.Configuration = append(out.Configuration, &pb.NameStringPair{Name: &name, Value: &value})
		}
		s.ColumnFamilies = append(s.ColumnFamilies, out)
	}
	return s
}

func pair(name, value string) *pb.BytesBytesPair {
	return &pb.BytesBytesPair{First: []byte(name), Second: []byte(value)}
}

func pairs(attributes map[string][]byte) (out []*pb.BytesBytesPair) {
	for _, name := range slices.Sorted(maps.Keys(attributes)) {
		out = append(out, pair(name, string(attributes[name])))
	}
	return out
}

// descriptorOf gives all that the master said as attributes too, as HBase's gateway does.
func descriptorOf(s *pb.TableSchema) *thrift2.TTableDescriptor {
	own := thrift2.TDurability_USE_DEFAULT
	d := &thrift2.TTableDescriptor{TableName: thriftName(s.GetTableName()), Attributes: map[string][]byte{}, Durability: &own}
	for _, a := range s.GetAttributes() {
		d.Attributes[string(a.First)] = a.Second
		if string(a.First) == durability {
			if v, err := thrift2.TDurabilityFromString(string(a.Second)); err == nil {
				d.Durability = &v
			}
		}
	}
	for _, f := range s.GetColumnFamilies() {
		d.Columns = append(d.Columns, familyDescriptor(f))
	}
	slices.SortFunc(d.Columns, func(a, b *thrift2.TColumnFamilyDescriptor) int { return cmp.Compare(string(a.Name), string(b.Name)) })
	return d
}

func familyDescriptor(s *pb.ColumnFamilySchema) *thrift2.TColumnFamilyDescriptor {
	f := &thrift2.TColumnFamilyDescriptor{Name: s.Name, Attributes: map[string][]byte{}, Configuration: map[string]string{}}
	for _, a := range s.Attributes {
		f.Attributes[string(a.First)] = a.Second
	}
	for _, a := range attributes {
		if value, ok := f.Attributes[a.name]; ok {
			a.set(f, string(value))
		} else {
			a.set(f, a.unsaid)
		}
	}
	for _, c := range s.Configuration {
		f.Configuration[c.GetName()] = c.GetValue()
	}
	return f
}
