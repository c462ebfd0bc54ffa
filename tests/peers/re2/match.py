"""RE2 itself as a peer of our reader of its syntax.

Reads lines `HEX-PATTERN HEX-TEXT HEX-TEXT …` (an empty one is `-`) and answers each with
`E message` where the pattern is refused, else with a 1 or 0 for each text: whether the
whole of it matches.
"""

import sys

import re2


def read(field):
    return b"" if field == "-" else bytes.fromhex(field)


options = re2.Options()
options.log_errors = False
# As Envoy 1.40 uses it: every byte is a character.
options.encoding = re2.Options.Encoding.LATIN1
for line in sys.stdin:
    first, *texts = line.split()
    try:
        pattern = re2.compile(read(first), options)
    except re2.error as error:
        print("E", repr(str(error)))
        continue
    print("".join("01"[pattern.fullmatch(read(text)) is not None] for text in texts))
