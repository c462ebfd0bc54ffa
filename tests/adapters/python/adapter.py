"""Runs policy.wasm in wasmtime's Python package, for tests: JSON lines in, JSON lines out.

    python adapter.py policy.wasm < plans.ndjson > answers.ndjson

A line is {"id", "calls": [[function, argument...]...]}; each line gets an instance of its
own. Integers are written as text, bytes as base64, options as null, results as {"ok"} or
{"err"}, other variants as {case: payload}; records have the names of the WIT.
"""

import base64
import json
import random
import sys

from wasmtime import Config, Engine, Store
from wasmtime import component as c

INTEGERS = (c.U8, c.U16, c.U32, c.U64, c.S8, c.S16, c.S32, c.S64)
DECISIONS = "portcullis:mesh/decisions@0.1.0"


def is_bytes(ty):
    return isinstance(ty, c.ListType) and isinstance(ty.element, c.U8)


def lower(ty, value):
    if isinstance(ty, INTEGERS):
        return int(value)
    if is_bytes(ty):
        return base64.b64decode(value)
    if isinstance(ty, c.ListType):
        return [lower(ty.element, item) for item in value]
    if isinstance(ty, c.OptionType):
        return None if value is None else lower(ty.payload, value)
    if isinstance(ty, c.RecordType):
        record = c.Record()
        for name, field in ty.fields:
            setattr(record, name, lower(field, value.get(name)))
        return record
    return value


def lift(ty, value):
    if isinstance(ty, INTEGERS):
        return str(value)
    if is_bytes(ty):
        return base64.b64encode(value).decode()
    if isinstance(ty, c.ListType):
        return [lift(ty.element, item) for item in value]
    if isinstance(ty, c.OptionType):
        return None if value is None else lift(ty.payload, value)
    if isinstance(ty, c.RecordType):
        return {name: lift(field, getattr(value, name)) for name, field in ty.fields}
    if isinstance(ty, c.ResultType):
        return {value.tag: lift(ty.ok if value.tag == "ok" else ty.err, value.payload)}
    if isinstance(ty, c.VariantType):
        payload = dict(ty.cases)[value.tag]
        return {value.tag: None if payload is None else lift(payload, value.payload)}
    return value


def main(path):
    engine = Engine(Config())
    component = c.Component.from_file(engine, path)
    linker = c.Linker(engine)
    # The seed for hash maps is all that a policy is given.
    seeded = [name for name in component.type.imports(engine) if name.startswith("wasi:random/insecure-seed@")]
    with linker.root() as root:
        for name in seeded:
            with root.add_instance(name) as instance:
                instance.add_func("insecure-seed", lambda _store: seed())
    linker.define_unknown_imports_as_traps(component)
    interface = component.get_export_index(DECISIONS)
    for line in sys.stdin:
        plan = json.loads(line)
        store = Store(engine)
        instance = linker.instantiate(store, component)
        answers = []
        for name, *arguments in plan["calls"]:
            function = instance.get_func(store, component.get_export_index(name, interface))
            ty = function.type(store)
            lowered = [lower(param, value) for (_, param), value in zip(ty.params, arguments, strict=True)]
            value = function(store, *lowered)
            function.post_return(store)
            answers.append(None if ty.result is None else lift(ty.result, value))
        print(json.dumps({"id": plan["id"], "answers": answers}), flush=True)


def seed():
    return (random.getrandbits(64), random.getrandbits(64))


main(sys.argv[1])
