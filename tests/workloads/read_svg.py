# Parses an SVG as XML and prints the titles of its frames: `name (12 samples, 3.4%)`.
import json
import sys
import xml.etree.ElementTree as ElementTree

SVG = "{http://www.w3.org/2000/svg}"
root = ElementTree.parse(sys.argv[1]).getroot()
assert root.tag == SVG + "svg", root.tag
json.dump([title.text for title in root.iter(SVG + "title")], sys.stdout)
