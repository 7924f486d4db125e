// A page of "hello world" with Go's net/http.
//
// With the arguments shutdown and wait, SIGTERM calls the method of that name, which lets requests end, and each of them
// takes 200 ms; with shutdown and any other word they take no time.
package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func hello(answer http.ResponseWriter, request *http.Request) {
	answer.Header().Set("Content-Type", "text/plain")
	answer.Write([]byte("hello world\n"))
}

func wait(answer http.ResponseWriter, request *http.Request) {
	time.Sleep(200 * time.Millisecond)
	hello(answer, request)
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func main() {
	signals := make(chan os.Signal, 1)
	graceful := len(os.Args) > 2 && os.Args[1] == "shutdown"
	if graceful {
		signal.Notify(signals, syscall.SIGTERM)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fail(err)
	}
	fmt.Fprintf(os.Stderr, "listening on tcp://%s\n", listener.Addr())
	server := &http.Server{Handler: http.HandlerFunc(hello)}
	if graceful && os.Args[2] == "wait" {
		server.Handler = http.HandlerFunc(wait)
	}
	if !graceful {
		fail(server.Serve(listener))
	}
	go server.Serve(listener)
	<-signals
	if err := server.Shutdown(context.Background()); err != nil {
		fail(err)
	}
}
