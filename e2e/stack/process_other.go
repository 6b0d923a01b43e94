//go:build !linux

package stack

import "syscall"

// ownGroup cannot make the kernel end the program with this one: that is Linux's
// alone.
func ownGroup() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
