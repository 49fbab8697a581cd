package pebble

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/atomicfs"

	"github.com/beeline-mqtt/beeline/services/session/internal/store"
)

// checkLogs looks through Pebble's list of files and its newest write-ahead log for damage that has something behind
// it which shows that it was durable once. Pebble itself takes damage in the list of files for an end that a crash has
// left, and would go on without what is behind it. In the log it looks for the offset that later chunks say was
// durable; but Pebble 2.1.7 does not count whole blocks in it, and looks only in the blocks that follow. So the
// committer writes marks of its own.
func checkLogs(fs vfs.FS, dir string) error {
	names, err := fs.List(dir)
	if err != nil {
		return fmt.Errorf("open store %q: %w", dir, err)
	}
	// Pebble says what is wrong with a marker, and a new store has none.
	if _, manifest, err := atomicfs.LocateMarkerInListing(fs, dir, "manifest", names); err == nil && manifest != "" {
		if err := checkLog(fs, dir, manifest, chunks{}); err != nil {
			return err
		}
	}
	newest, name := uint64(0), ""
	for _, n := range names {
		base, isLog := strings.CutSuffix(n, ".log")
		if number, err := strconv.ParseUint(base, 10, 32); isLog && err == nil && number >= newest {
			newest, name = number, n
		}
	}
	if name == "" {
		return nil
	}
	return checkLog(fs, dir, name, chunks{wal: true, number: uint32(newest)})
}

func checkLog(fs vfs.FS, dir, name string, c chunks) error {
	f, err := fs.Open(fs.PathJoin(dir, name))
	if err != nil {
		return fmt.Errorf("open store %q: %w", dir, err)
	}
	defer closeQuietly(f)
	if c.data, err = io.ReadAll(f); err != nil {
		return fmt.Errorf("open store %q: read %s: %w", dir, name, err)
	}
	if at := c.damage(); at >= 0 {
		return fmt.Errorf("open store %q: %w: %s is damaged near byte %d", dir, store.ErrCorrupt, name, at)
	}
	return nil
}

// chunks are the contents of a log in the format of Pebble's package record.
type chunks struct {
	data []byte
	// wal says that chunks carry the number of their log, and that records may begin with our mark.
	wal    bool
	number uint32
}

// Sizes and kinds of that format.
const (
	blockSize     = 32 << 10
	smallHeader   = 7 // checksum, length, kind
	walHeader     = smallHeader + 4 + 8
	lastPlainKind = 4
	firstWALKind  = 9
	lastWALKind   = 12
)

// damage returns where a chunk is damaged that was durable, or -1.
func (c chunks) damage() int {
	for at := 0; ; {
		left := blockSize - at%blockSize
		if at+min(left, smallHeader) > len(c.data) {
			return -1
		}
		size, ours, _ := c.chunk(at)
		switch {
		case size > 0 && ours:
			at += size
		case size > 0:
			return -1 // what a file held that was used again
		case left < walHeader && zero(c.data[at:min(at+left, len(c.data))]):
			at += left
		case c.attested(at):
			return at
		default:
			return -1
		}
	}
}

// attested reports whether anything behind at shows that what is at at was durable: in the list of files, where each
// record is synced before the next, any record; in a write-ahead log one that begins with the mark.
func (c chunks) attested(at int) bool {
	for p := at + 1; p < len(c.data); p++ {
		if size, ours, marked := c.chunk(p); size > 0 && ours && (!c.wal || marked) {
			return true
		}
	}
	return false
}

// chunk returns the size of the chunk at at, 0 if there is none; whether it belongs to this log; and whether it begins
// a record with the mark.
func (c chunks) chunk(at int) (size int, ours, marked bool) {
	block := c.data[at:min(len(c.data), at-at%blockSize+blockSize)]
	header := smallHeader
	if c.wal {
		header = walHeader
	}
	if len(block) < header {
		return 0, false, false
	}
	kind, length := block[6], int(binary.LittleEndian.Uint16(block[4:]))
	if c.wal && (kind < firstWALKind || kind > lastWALKind) || !c.wal && (kind == 0 || kind > lastPlainKind) || header+length > len(block) {
		return 0, false, false
	}
	crc := sum(block[6 : header+length])
	if (crc>>15|crc<<17)+0xa282ead8 != binary.LittleEndian.Uint32(block) {
		return 0, false, false
	}
	if !c.wal {
		return header + length, true, false
	}
	// The mark is where no message can have it: in the first row of a batch, which is 12 bytes behind its begin.
	record := block[header : header+length]
	begins := kind == firstWALKind || kind == firstWALKind+1
	marked = begins && len(record) > 12 && bytes.HasPrefix(record[12:], append([]byte{byte(pebble.InternalKeyKindLogData), byte(len(mark))}, mark...))
	return header + length, binary.LittleEndian.Uint32(block[7:]) == c.number, marked
}

func zero(b []byte) bool {
	for _, v := range b {
		if v != 0 {
			return false
		}
	}
	return true
}
