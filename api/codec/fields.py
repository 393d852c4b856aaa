#!/usr/bin/env python3
"""Writes fields.txt: what Kubernetes' protobuf looks like, as facts.

usage: fields.py PACKAGE=GROUP/VERSION=DIRECTORY... > fields.txt

Each DIRECTORY is one Go package of Kubernetes' API, with its `generated.proto` (numbers and wire types)
and its Go types (JSON names, which fields are pointers, which are left out when empty). PACKAGE is the
short name that fields.txt gives it (`core.v1`), GROUP/VERSION the apiVersion of its kinds, empty for a
package without any. Only names, numbers and flags are taken; `table.rs` says how a line is read.
"""
import pathlib
import re
import sys

SCALARS = {"string": "s", "bool": "b", "int32": "i", "int64": "l", "double": "d", "bytes": "y"}
FIELD = re.compile(r"(optional|repeated|map<string, *([\w.]+)>)(?: ([\w.]+))? (\w+) = (\d+);")
GO_FIELD = re.compile(r"^(?:(\w+)\s+)?([*\[\]\w.{}]+)\s*`([^`]*)`")


def proto_messages(text):
    """name -> [(number, repetition, type, name)]"""
    found, current = {}, None
    for line in text.splitlines():
        line = line.strip()
        if line.startswith("//"):
            continue
        if line.startswith("message "):
            current = found.setdefault(line.split()[1], [])
        elif line == "}":
            current = None
        elif current is not None and (match := FIELD.match(line)):
            how, value, kind, name, number = match.groups()
            repetition = "%" if value else "*" if how == "repeated" else ""
            current.append((int(number), repetition, value or kind, name))
    return found


def go_structs(directory):
    """type name -> {field number or name: (JSON name, pointer, omitted when empty, inline)}"""
    structs, lists = {}, set()
    for path in sorted(pathlib.Path(directory).glob("*.go")):
        if path.name.endswith(("_test.go", ".pb.go")) or path.name.startswith("zz_"):
            continue
        current = None
        for line in path.read_text().splitlines():
            if match := re.match(r"type (\w+) struct {", line):
                current = structs.setdefault(match[1], {})
            elif match := re.match(r"type (\w+) \[\]\w+", line):
                lists.add(match[1])
            elif line.startswith("}"):
                current = None
            elif current is not None and (match := GO_FIELD.match(line.strip())):
                name, kind, tags = match.groups()
                json = re.search(r'json:"([^"]*)"', tags)
                protobuf = re.search(r'protobuf:"\w+,(\d+)', tags)
                if not protobuf:
                    continue
                parts = (json[1] if json else "").split(",")
                inline = (name is None and parts[0] == "") or "inline" in parts
                omitted = "omitempty" in parts or "omitzero" in parts
                current[int(protobuf[1])] = (parts[0], kind.startswith("*"), omitted, inline)
    return structs, lists


def main():
    packages = [argument.split("=") for argument in sys.argv[1:]]
    full = {}
    for package, _, directory in packages:
        text = (pathlib.Path(directory) / "generated.proto").read_text()
        full[re.search(r"^package ([\w.]+);", text, re.M)[1]] = package
    for package, group_version, directory in packages:
        text = (pathlib.Path(directory) / "generated.proto").read_text()
        structs, lists = go_structs(directory)
        print(f"package {package} {group_version}".rstrip())
        for message, fields in proto_messages(text).items():
            words = [message]
            if message in lists:
                words.append("[]")
            go = structs.get(message, {})
            for number, repetition, kind, name in sorted(fields):
                json, pointer, omitted, inline = go.get(number, (name, False, True, False))
                if kind in SCALARS:
                    kind = SCALARS[kind]
                else:
                    if kind.startswith("."):
                        space, _, base = kind[1:].rpartition(".")
                        kind = base if full[space] == package else f"{full[space]}.{base}"
                    kind = "@" + kind
                flags = "?" * pointer + "!" * (not omitted and not inline) + "~" * inline
                words.append(f"{'' if inline else json or name}={number}{repetition}{kind}{flags}")
            print(" ".join(words))


main()
