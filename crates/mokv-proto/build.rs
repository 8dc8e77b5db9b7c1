//! Compiles the contracts with protox, so that no `protoc` is needed.

use std::env;
use std::error::Error;
use std::fs;
use std::path::PathBuf;

use prost::Message;

const ROOT: &str = "proto";
const PUBLIC: &[&str] = &["api/kv.proto", "cluster/cluster.proto"];
const INTERNAL: &[&str] = &["internal/command.proto", "internal/raft.proto", "internal/peer.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={ROOT}");
    let out = PathBuf::from(env::var("OUT_DIR")?);

    let public = protox::compile(PUBLIC, [ROOT])?;
    fs::write(out.join("public.bin"), public.encode_to_vec())?;

    let all = protox::compile(PUBLIC.iter().chain(INTERNAL), [ROOT])?;
    tonic_prost_build::configure().bytes(".").compile_fds(all)?;
    Ok(())
}
