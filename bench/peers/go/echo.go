// Echo with Go's net package: a goroutine for each connection.
//
// The arguments: once, echo or mixed, tcp or unix, and the size of the buffer of each connection. mixed echoes messages of 64
// bytes, whose highest two bits say whether they compute for 5 ms before, wait for 20 ms, or neither.
package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"time"
	"unsafe"
)

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func serve(conn net.Conn, once bool, size int) {
	defer conn.Close()
	buf := make([]byte, size)
	for {
		count, err := conn.Read(buf)
		if err != nil {
			return
		}
		if _, err := conn.Write(buf[:count]); err != nil || once {
			return
		}
	}
}

// The processor time that this thread has used, in nanoseconds.
func threadTime() int64 {
	const clockThreadCPUTime = 3
	var now syscall.Timespec
	syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, clockThreadCPUTime, uintptr(unsafe.Pointer(&now)), 0)
	return now.Nano()
}

var sink uint64

// Computes until it has had 5 ms of the processor. The goroutine stays on its thread meanwhile, so the thread's clock is its own.
func compute() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	state := uint64(1)
	for end := threadTime() + 5_000_000; threadTime() < end; {
		for step := 0; step < 100; step++ {
			state = state*0x5851f42d4c957f2d + 1
		}
	}
	sink = state
}

func serveMixed(conn net.Conn) {
	defer conn.Close()
	var message [64]byte
	for {
		if _, err := io.ReadFull(conn, message[:]); err != nil {
			return
		}
		switch message[0] >> 6 {
		case 1:
			time.Sleep(20 * time.Millisecond)
		case 2, 3:
			compute()
		}
		if _, err := conn.Write(message[:]); err != nil {
			return
		}
	}
}

func main() {
	once, kind := os.Args[1] == "once", os.Args[2]
	size, err := strconv.Atoi(os.Args[3])
	if err != nil {
		fail(err)
	}
	address := "127.0.0.1:0"
	if kind == "unix" {
		address = fmt.Sprintf("@bench-go-%d", os.Getpid())
	}
	listener, err := net.Listen(kind, address)
	if err != nil {
		fail(err)
	}
	if kind == "unix" {
		fmt.Fprintf(os.Stderr, "listening on unix:%s\n", address)
	} else {
		fmt.Fprintf(os.Stderr, "listening on tcp://%s\n", listener.Addr())
	}
	for {
		conn, err := listener.Accept()
		if err != nil {
			fail(err)
		}
		if os.Args[1] == "mixed" {
			go serveMixed(conn)
		} else {
			go serve(conn, once, size)
		}
	}
}
