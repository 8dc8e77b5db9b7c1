"""Calls every method of the original contract on the leader and on a follower. usage: client.py NODES.json"""

import json
import sys

import grpc
from google.protobuf import empty_pb2

import original_pb2 as api
import original_pb2_grpc

KEY = "59°19'14.7\"N"


def exercise(address: str, others: list[str], which: str) -> None:
    with grpc.insecure_channel(address) as channel:
        kv = original_pb2_grpc.KVStub(channel)
        value = f"Stockholm by {which}".encode() + bytes([0, 255])
        assert kv.Set(api.SetRequest(key=KEY, value=value), timeout=10).ok
        assert kv.Set(api.SetRequest(key="empty", value=b""), timeout=10).ok

        # What was acknowledged is seen through every node at once.
        for node in [address, *others]:
            with grpc.insecure_channel(node) as other:
                got = original_pb2_grpc.KVStub(other).Get(api.GetRequest(key=KEY), timeout=10)
                assert (got.key, got.value) == (KEY, value), (node, got)

        pairs = {pair.key: pair.value for pair in kv.List(empty_pb2.Empty(), timeout=10)}
        assert pairs == {KEY: value, "empty": b""}, pairs

        servers = kv.GetServers(empty_pb2.Empty(), timeout=10).servers
        assert sorted(server.id for server in servers) == ["node-0", "node-1", "node-2"], servers
        assert sum(server.is_leader for server in servers) == 1, servers
        assert {server.rpc_addr for server in servers} == {address, *others}, servers

        assert kv.Delete(api.DeleteRequest(key=KEY), timeout=10).ok
        assert kv.Delete(api.DeleteRequest(key=KEY), timeout=10).ok, "deleting what is not there succeeds"
        try:
            kv.Get(api.GetRequest(key=KEY), timeout=10)
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.NOT_FOUND, error
            assert error.details() == f"no value for key: {KEY}", error.details()
        else:
            raise AssertionError("a deleted key has a value")


def main() -> None:
    with open(sys.argv[1], encoding="utf-8") as file:
        addresses = [node["rpc_addr"] for node in json.load(file)["nodes"]]
    with grpc.insecure_channel(addresses[0]) as channel:
        servers = original_pb2_grpc.KVStub(channel).GetServers(empty_pb2.Empty(), timeout=10).servers
    leader = next(server.rpc_addr for server in servers if server.is_leader)
    followers = [address for address in addresses if address != leader]
    exercise(leader, followers, "the leader")
    exercise(followers[0], [leader, *followers[1:]], "a follower")
    print(f"original contract: Get, Set, Delete, List and GetServers work on leader {leader} and follower {followers[0]}")


main()
