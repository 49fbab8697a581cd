//go:build linux

package processes

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
)

// dialer finds out which of some processes has the near end of a local connection, 0 when none has. It is the
// only way to tell who connects: they all come from the same address, and the certificates are encrypted.
func dialer(remote net.Addr, pids []int) int {
	tcp, ok := remote.(*net.TCPAddr)
	if !ok {
		return 0
	}
	inode := inodeOf(tcp)
	if inode == "" {
		return 0
	}
	for _, pid := range pids {
		if owns(pid, inode) {
			return pid
		}
	}
	return 0
}

// inodeOf returns the inode of the socket that has a local IPv4 address.
func inodeOf(a *net.TCPAddr) string {
	table, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		return ""
	}
	// The address stands there in the byte order of the machine.
	var ip [4]byte
	binary.NativeEndian.PutUint32(ip[:], binary.BigEndian.Uint32(a.IP.To4()))
	local := fmt.Sprintf("%s:%04X", strings.ToUpper(hex.EncodeToString(ip[:])), a.Port)
	for line := range strings.Lines(string(table)) {
		// sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode
		if f := strings.Fields(line); len(f) > 9 && f[1] == local {
			return f[9]
		}
	}
	return ""
}

func owns(pid int, inode string) bool {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	files, err := os.ReadDir(dir)
	if err != nil {
		return false
	}
	for _, f := range files {
		if to, err := os.Readlink(filepath.Join(dir, f.Name())); err == nil && to == "socket:["+inode+"]" {
			return true
		}
	}
	return false
}
