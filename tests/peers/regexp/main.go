// Go's regexp as a peer of our reader of RE2's syntax.
//
// Reads lines `HEX-PATTERN HEX-TEXT HEX-TEXT …` (an empty one is `-`) and answers each with
// `E message` where the pattern is refused, else with a 1 or 0 for each text: whether the
// whole of it matches.
package main

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"os"
	"regexp"
	"strings"
)

func bytes(field string) []byte {
	if field == "-" {
		return nil
	}
	text, err := hex.DecodeString(field)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return text
}

func main() {
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 16<<20)
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	for in.Scan() {
		fields := strings.Fields(in.Text())
		pattern, err := regexp.Compile(string(bytes(fields[0])))
		if err != nil {
			fmt.Fprintf(out, "E %q\n", err.Error())
			continue
		}
		// The leftmost match begins where the text does if any does, and the
		// longest of those reaches its end if any does.
		pattern.Longest()
		for _, field := range fields[1:] {
			text := bytes(field)
			place := pattern.FindIndex(text)
			if place != nil && place[0] == 0 && place[1] == len(text) {
				out.WriteByte('1')
			} else {
				out.WriteByte('0')
			}
		}
		out.WriteByte('\n')
	}
	if err := in.Err(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
