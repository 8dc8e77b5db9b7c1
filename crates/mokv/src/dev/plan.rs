//! What a local cluster will look like: names, ports and directories. Nothing is started here.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::exit::Failure;

/// Between the ports of one node and the next: a node has two in a row, and people count in tens.
const PORT_STEP: u16 = 10;
/// What the directory remembers of the cluster in it.
const RECORD_FILE: &str = "dev.json";

/// One node of the local cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NodePlan {
    pub(super) name: String,
    pub(super) rpc_port: u16,
    pub(super) gossip_port: u16,
    pub(super) metrics_port: u16,
    pub(super) data_dir: PathBuf,
    pub(super) log_file: PathBuf,
    /// The nodes that form the cluster together.
    pub(super) expect: u16,
    /// The gossip addresses of all nodes.
    pub(super) join_addrs: String,
}

impl NodePlan {
    pub(super) fn rpc_addr(&self) -> String {
        format!("127.0.0.1:{}", self.rpc_port)
    }

    pub(super) fn metrics_addr(&self) -> String {
        format!("127.0.0.1:{}", self.metrics_port)
    }
}

/// Plans the nodes: `node-0` on the given ports, each further one ten ports up.
pub(super) fn plan(nodes: u16, rpc_port: u16, metrics_port: u16, dir: &Path) -> Result<Vec<NodePlan>, Failure> {
    let port = |base: u16, index: u16, what: &str| {
        let port = base.checked_add(index * PORT_STEP).filter(|port| *port < u16::MAX);
        port.ok_or_else(|| {
            Failure::usage(format!("{what} {base} leaves no room for {nodes} nodes: choose a lower one"))
        })
    };
    let gossip_ports = (0..nodes).map(|index| port(rpc_port, index, "--rpc-port").map(|port| port + 1));
    let gossip_ports: Vec<u16> = gossip_ports.collect::<Result<_, _>>()?;
    let join_addrs: Vec<String> = gossip_ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    let mut plan = Vec::new();
    for index in 0..nodes {
        let name = format!("node-{index}");
        let rpc_port = port(rpc_port, index, "--rpc-port")?;
        plan.push(NodePlan {
            rpc_port,
            gossip_port: rpc_port + 1,
            metrics_port: port(metrics_port, index, "--metrics-port")?,
            data_dir: dir.join(&name),
            log_file: dir.join(format!("{name}.log")),
            expect: nodes,
            join_addrs: join_addrs.join(","),
            name,
        });
    }
    let rpc_ports: Vec<u16> = plan.iter().flat_map(|node| [node.rpc_port, node.gossip_port]).collect();
    if let Some(node) = plan.iter().find(|node| rpc_ports.contains(&node.metrics_port)) {
        let text = format!("port {} would be used twice: move --metrics-port or --rpc-port", node.metrics_port);
        return Err(Failure::usage(text));
    }
    Ok(plan)
}

/// Fails if somebody else listens where a node would.
pub(super) fn check_ports(plan: &[NodePlan]) -> Result<(), Failure> {
    for node in plan {
        for (port, what, flag) in
            [(node.rpc_port, "gRPC", "--rpc-port"), (node.metrics_port, "metrics", "--metrics-port")]
        {
            TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(|error| {
                Failure::error(format!(
                    "port {port} ({what} of {}) can't be used: {error}; stop what listens there, or choose another {flag}",
                    node.name
                ))
            })?;
        }
    }
    Ok(())
}

/// The cluster that a directory holds. Members know each other by their ports, so those stay what they were.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    nodes: u16,
    rpc_port: u16,
}

/// Makes the directory, and fails if it holds a cluster that is not the planned one, or a larger one.
pub(super) fn claim(dir: &Path, plan: &[NodePlan]) -> Result<(), Failure> {
    let cannot = |error: io::Error| Failure::error(format!("can't use {}: {error}", dir.display()));
    fs::create_dir_all(dir).map_err(cannot)?;
    let nodes = u16::try_from(plan.len()).map_err(Failure::error)?;
    let planned = Record { nodes, rpc_port: plan[0].rpc_port };
    let file = dir.join(RECORD_FILE);
    match fs::read(&file) {
        Ok(bytes) => {
            let held: Record = serde_json::from_slice(&bytes)
                .map_err(|error| Failure::error(format!("{} is not what it was: {error}", file.display())))?;
            if held == planned {
                return Ok(());
            }
            if held.rpc_port != planned.rpc_port || held.nodes > planned.nodes {
                return Err(Failure::usage(format!(
                    "{} holds a cluster of {} nodes: start it with --nodes {} --rpc-port {}, or choose another --data-dir",
                    dir.display(),
                    held.nodes,
                    held.nodes,
                    held.rpc_port
                )));
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(cannot(error)),
    }
    let record = serde_json::to_vec(&planned).map_err(Failure::error)?;
    fs::write(&file, record).map_err(cannot)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(result: Result<impl std::fmt::Debug, Failure>) -> String {
        format!("{:?}", result.expect_err("a failure"))
    }

    #[test]
    fn nodes_stand_ten_ports_apart() {
        let plan = plan(3, 8400, 4000, Path::new("/d")).expect("plan");
        let ports: Vec<_> = plan.iter().map(|node| (node.rpc_port, node.gossip_port, node.metrics_port)).collect();
        assert_eq!(ports, [(8400, 8401, 4000), (8410, 8411, 4010), (8420, 8421, 4020)]);
        assert_eq!(plan[2].data_dir, Path::new("/d/node-2"));
        assert!(plan.iter().all(|node| node.expect == 3 && node.join_addrs.contains(&node.gossip_port.to_string())));
    }

    #[test]
    fn ports_that_clash_or_end_are_refused() {
        let dir = Path::new("/d");
        assert!(message(plan(3, 8400, 8420, dir)).contains("port 8420 would be used twice"));
        assert!(message(plan(3, 8400, 8401, dir)).contains("port 8401 would be used twice"));
        assert!(message(plan(9, 65500, 4000, dir)).contains("--rpc-port 65500 leaves no room"));
        assert!(message(plan(1, 65535, 4000, dir)).contains("--rpc-port 65535 leaves no room"));
    }

    #[test]
    fn a_directory_keeps_its_cluster() {
        let dir = tempfile::tempdir().expect("directory");
        let plan = |nodes, rpc_port| plan(nodes, rpc_port, 4000, dir.path()).expect("plan");
        claim(dir.path(), &plan(3, 8400)).expect("empty");
        claim(dir.path(), &plan(3, 8400)).expect("the same");
        assert!(message(claim(dir.path(), &plan(3, 9400))).contains("--nodes 3 --rpc-port 8400"));
        assert!(message(claim(dir.path(), &plan(1, 8400))).contains("holds a cluster of 3 nodes"));
        claim(dir.path(), &plan(5, 8400)).expect("more nodes");
        assert!(message(claim(dir.path(), &plan(3, 8400))).contains("holds a cluster of 5 nodes"));
    }
}
