// A page of "hello world" with Go's net/http.
package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
)

func hello(answer http.ResponseWriter, request *http.Request) {
	answer.Header().Set("Content-Type", "text/plain")
	answer.Write([]byte("hello world\n"))
}

func main() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Fprintf(os.Stderr, "listening on tcp://%s\n", listener.Addr())
	http.HandleFunc("/", hello)
	fmt.Fprintln(os.Stderr, http.Serve(listener, nil))
}
