//go:build linux

package processes

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"
)

// dialer finds out which of some processes has the other end of a local connection, 0 when none has. It is the
// only way to tell who connects: they all come from the same address, and their certificates are encrypted.
func dialer(nc net.Conn, pids []int) (int, error) {
	// The dialler's local address is the remote one here.
	inode, err := inodeOf(nc.RemoteAddr(), nc.LocalAddr())
	if err != nil {
		return 0, fmt.Errorf("find the dialler of %v: %w", nc.RemoteAddr(), err)
	}
	socket := fmt.Sprintf("socket:[%d]", inode)
	for _, pid := range pids {
		if owns(pid, socket) {
			return pid, nil
		}
	}
	return 0, nil
}

// Numbers of linux/netlink.h, linux/sock_diag.h and linux/inet_diag.h.
const (
	sockDiag         = 4
	sockDiagByFamily = 20
	diagHeader       = 16 // struct nlmsghdr
	diagRequest      = 56 // struct inet_diag_req_v2
	diagInode        = diagHeader + 68
)

// inodeOf asks the kernel for the inode of the established TCP socket with these two IPv4 addresses.
func inodeOf(local, remote net.Addr) (uint32, error) {
	from, ok1 := local.(*net.TCPAddr)
	to, ok2 := remote.(*net.TCPAddr)
	if !ok1 || !ok2 || from.IP.To4() == nil || to.IP.To4() == nil {
		return 0, fmt.Errorf("%v to %v is not TCP over IPv4", local, remote)
	}
	fd, err := syscall.Socket(syscall.AF_NETLINK, syscall.SOCK_RAW|syscall.SOCK_CLOEXEC, sockDiag)
	if err != nil {
		return 0, fmt.Errorf("open netlink: %w", err)
	}
	defer func() { _ = syscall.Close(fd) }()

	b := make([]byte, diagHeader+diagRequest)
	binary.NativeEndian.PutUint32(b[0:], uint32(len(b)))
	binary.NativeEndian.PutUint16(b[4:], sockDiagByFamily)
	binary.NativeEndian.PutUint16(b[6:], syscall.NLM_F_REQUEST)
	r := b[diagHeader:]
	r[0], r[1] = syscall.AF_INET, syscall.IPPROTO_TCP
	binary.NativeEndian.PutUint32(r[4:], ^uint32(0)) // in any state
	binary.BigEndian.PutUint16(r[8:], uint16(from.Port))
	binary.BigEndian.PutUint16(r[10:], uint16(to.Port))
	copy(r[12:], from.IP.To4())
	copy(r[28:], to.IP.To4())
	binary.NativeEndian.PutUint64(r[48:], ^uint64(0)) // no cookie
	if err := syscall.Sendto(fd, b, 0, &syscall.SockaddrNetlink{Family: syscall.AF_NETLINK}); err != nil {
		return 0, fmt.Errorf("ask netlink: %w", err)
	}
	answer := make([]byte, 4096)
	n, _, err := syscall.Recvfrom(fd, answer, 0)
	switch {
	case err != nil:
		return 0, fmt.Errorf("read netlink: %w", err)
	case n < diagHeader+4:
		return 0, errors.New("short answer of netlink")
	case binary.NativeEndian.Uint16(answer[4:]) != sockDiagByFamily:
		return 0, fmt.Errorf("netlink: %w", syscall.Errno(-int32(binary.NativeEndian.Uint32(answer[diagHeader:]))))
	case n < diagInode+4:
		return 0, errors.New("short answer of netlink")
	}
	return binary.NativeEndian.Uint32(answer[diagInode:]), nil
}

func owns(pid int, socket string) bool {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	files, err := os.ReadDir(dir)
	if err != nil {
		return false
	}
	for _, f := range files {
		if to, err := os.Readlink(filepath.Join(dir, f.Name())); err == nil && to == socket {
			return true
		}
	}
	return false
}
