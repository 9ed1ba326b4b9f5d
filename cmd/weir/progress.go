package main

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// How soon, and how often then, somebody who waits is told that it goes on.
const (
	progressAfter = time.Second
	progressEvery = 5 * time.Second
)

// progress tells out what takes so long, from a second on, until the returned function is called.
func progress(out io.Writer, what string) (done func()) {
	began, stop := time.Now(), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for wait := progressAfter; ; wait = progressEvery {
			select {
			case <-stop:
				return
			case <-time.After(wait):
				fmt.Fprintf(out, "%s: %s so far\n", what, time.Since(began).Round(time.Second))
			}
		}
	})
	return func() { close(stop); wg.Wait() }
}
