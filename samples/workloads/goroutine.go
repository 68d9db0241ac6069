// A chain of three functions in a goroutine of its own, for as many seconds as the argument says.
package main

import (
	"os"
	"strconv"
	"time"
)

var sink uint64

//go:noinline
func costly(n uint64) {
	for i := uint64(0); i < n; i++ {
		sink = sink*5 + i
	}
}

//go:noinline
func work() { costly(100000) }

func worker(end time.Time, done chan bool) {
	for time.Now().Before(end) {
		work()
	}
	done <- true
}

func main() {
	seconds := 1.0
	if len(os.Args) > 1 {
		seconds, _ = strconv.ParseFloat(os.Args[1], 64)
	}
	end := time.Now().Add(time.Duration(seconds * float64(time.Second)))
	done := make(chan bool)
	go worker(end, done)
	<-done
}
