"""A walk through everything python-etcd3 can do, over mutual TLS. Says `done` at the end.

usage: tour.py HOST:PORT CA CERTIFICATE KEY
"""

import os
import sys
import tempfile
import threading

import etcd3

address, ca, certificate, key = sys.argv[1:]
host, port = address.rsplit(":", 1)
client = etcd3.client(
    host=host, port=int(port), ca_cert=ca, cert_cert=certificate, cert_key=key, timeout=20
)


def keys():
    client.put("a/1", "one")
    client.put("a/2", "two")
    client.put("b", "three")
    value, about = client.get("a/1")
    assert (value, about.key, about.version) == (b"one", b"a/1", 1), (value, about)
    assert client.get("missing") == (None, None)
    assert [value for value, _ in client.get_prefix("a/")] == [b"one", b"two"]
    descending = client.get_prefix("a/", sort_order="descend", sort_target="key")
    assert [about.key for _, about in descending] == [b"a/2", b"a/1"]
    assert [about.key for _, about in client.get_range("a/2", "c")] == [b"a/2", b"b"]
    assert {about.key for _, about in client.get_all()} >= {b"a/1", b"a/2", b"b"}
    assert client.put_if_not_exists("new", "x") and not client.put_if_not_exists("new", "y")
    assert client.replace("new", "x", "z") and not client.replace("new", "x", "q")
    assert client.delete("new") and not client.delete("new")
    assert client.delete_prefix("a/").deleted == 2


def transactions():
    client.put("t", "1")
    compare, do = client.transactions, client.transactions
    done, answers = client.transaction(
        compare=[compare.value("t") == "1", compare.version("t") > 0, compare.version("no") == 0],
        success=[do.put("t", "2"), do.get("t")],
        failure=[do.delete("t")],
    )
    assert done and answers[1][0][0] == b"2", answers
    done, answers = client.transaction(
        compare=[compare.value("t") == "1"], success=[], failure=[do.get("t"), do.delete("t")]
    )
    assert not done and answers[0][0][0] == b"2", answers


def watches():
    seen, told = [], threading.Event()

    def hear(response):
        seen.extend(response.events)
        if len(seen) >= 3:
            told.set()

    number = client.add_watch_prefix_callback("w/", hear)
    client.put("w/1", "x")
    client.put("w/2", "y")
    client.delete("w/1")
    assert told.wait(30), seen
    kinds = [type(event).__name__ for event in seen]
    assert kinds == ["PutEvent", "PutEvent", "DeleteEvent"], kinds
    client.cancel_watch(number)
    # From the past on, and until somebody has heard enough.
    start = seen[0].mod_revision
    events, cancel = client.watch_prefix("w/", start_revision=start)
    assert [next(events).key for _ in range(3)] == [b"w/1", b"w/2", b"w/1"]
    cancel()
    once = threading.Timer(0.2, lambda: client.put("once", "now"))
    once.start()
    assert client.watch_once("once", timeout=30).value == b"now"
    client.compact(start + 2)
    events, cancel = client.watch("w/1", start_revision=start)
    try:
        next(events)
        raise AssertionError("compacted history was shown")
    except etcd3.exceptions.RevisionCompactedError as error:
        assert error.compacted_revision >= start
    cancel()


def leases():
    lease = client.lease(60)
    client.put("leased", "x", lease=lease)
    assert lease.granted_ttl == 60 and 0 < lease.remaining_ttl <= 60
    assert list(lease.keys) == [b"leased"]
    assert [answer.TTL for answer in lease.refresh()] == [60]
    lease.revoke()
    assert client.get("leased") == (None, None)


def locks():
    with client.lock("l", ttl=20) as lock:
        assert lock.is_acquired()
        assert not client.lock("l", ttl=20).acquire(timeout=0)
    again = client.lock("l", ttl=20)
    assert again.acquire(timeout=20) and again.release()


def maintenance():
    status = client.status()
    assert status.version.startswith("3.") and status.db_size > 0 and status.leader is not None
    members = list(client.members)
    assert status.leader.id in [member.id for member in members]
    assert client.hash() == client.hash()
    client.defragment()
    assert list(client.list_alarms()) == []
    assert [alarm.alarm_type for alarm in client.create_alarm()] != []
    assert client.disarm_alarm()
    assert list(client.list_alarms()) == []
    with tempfile.TemporaryFile() as file:
        client.snapshot(file)
        assert file.tell() > 10_000
    # The least of a client's refusals: a key that is none.
    try:
        client.put("", "x")
        raise AssertionError("an empty key was put")
    except Exception as error:
        assert "key is not provided" in str(error), error


for part in (keys, transactions, watches, leases, locks, maintenance):
    part()
    print(part.__name__, flush=True)
print("done", flush=True)
# Threads of the client's own would hold the process up.
os._exit(0)
