// A chain of three functions in a goroutine of its own, for as many seconds as the argument says.
package main

import (
	"os"
	"strconv"
	"time"
)

var (
	end  time.Time
	done = make(chan bool)
	sink uint64
)

// The array gives it a frame. A leaf without one hides its caller from a walk by frame pointers.
//
//go:noinline
func costly(n uint64) {
	var block [8]uint64
	for i := uint64(0); i < n; i++ {
		block[i%8] += i * sink
	}
	sink += block[n%8]
}

//go:noinline
func work() { costly(100000) }

func worker() {
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
	end = time.Now().Add(time.Duration(seconds * float64(time.Second)))
	// Without arguments the goroutine starts with the function itself, not with one that calls it.
	go worker()
	<-done
}
