// A goroutine and the main one, both busy.
package main

import (
	"fmt"
	"sort"
	"strings"
)

var sink uint64

//go:noinline
func inner(n uint64) uint64 {
	sum := uint64(0)
	for i := uint64(0); i < n; i++ {
		sum += i ^ sink
	}
	return sum
}

//go:noinline
func outer(n uint64) uint64 {
	return inner(n) + inner(n+1)
}

//go:noinline
func work() {
	for {
		sink += outer(100000)
		words := strings.Fields(strings.Repeat("one two three ", 500))
		sort.Slice(words, func(a, b int) bool { return words[a] < words[b] })
	}
}

func main() {
	fmt.Println("READY")
	go work()
	work()
}
