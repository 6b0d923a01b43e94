package chat

import "syscall"

// endsWithUs makes the kernel end a process with this one, however this one ends.
func endsWithUs() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
