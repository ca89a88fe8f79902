"""Puts rows from a file through a Thrift1 gateway with happybase, as one would write it after its manual.

Arguments: port, table, file, rows a batch, and which part of how many. Reading the file is over before the clock starts.
Prints rows, seconds and CPU seconds.
"""
import struct
import sys
import time

import happybase


def rows(path, part, parts):
    with open(path, "rb") as f:
        data = f.read()
    at, n, out = 0, 0, []

    def take():
        nonlocal at
        size = struct.unpack_from(">I", data, at)[0]
        at += 4 + size
        return data[at - size:at]

    while at < len(data):
        cells = struct.unpack_from(">I", data, at)[0]
        at += 4
        key = take()
        row = {}
        for _ in range(cells):
            column = take()
            row[column] = take()
        if n % parts == part:
            out.append((key, row))
        n += 1
    return out


def main():
    port, table, path, size, part, parts = sys.argv[1:]
    todo = rows(path, int(part), int(parts))
    connection = happybase.Connection("127.0.0.1", int(port), timeout=120000)
    timestamp = int(time.time() * 1000)
    print("ready", flush=True)
    sys.stdin.readline()
    began, cpu = time.monotonic(), time.process_time()
    with connection.table(table).batch(timestamp=timestamp, batch_size=int(size)) as batch:
        for key, row in todo:
            batch.put(key, row)
    print(len(todo), time.monotonic() - began, time.process_time() - cpu, flush=True)


main()
