// Echo with Go's net package: a goroutine for each connection.
//
// The arguments: once or echo, tcp or unix, and the size of the buffer of each connection.
package main

import (
	"fmt"
	"net"
	"os"
	"strconv"
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
		go serve(conn, once, size)
	}
}
