# What the standard library's reader makes of a file of comma-separated values.
import csv
import json
import sys

with open(sys.argv[1], newline="", encoding="utf-8") as file:
    print(json.dumps(list(csv.DictReader(file))))
