//! Compiles the contracts with protox, so that no `protoc` is needed.

use std::env;
use std::error::Error;
use std::fs;
use std::path::PathBuf;

use prost::Message;

const ROOT: &str = "proto";
const PUBLIC: &[&str] = &["api/kv.proto", "cluster/cluster.proto"];
const KV: &[&str] = &["api/kv.proto"];
const INTERNAL: &[&str] = &["internal/command.proto", "internal/raft.proto", "internal/peer.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={ROOT}");
    let out = PathBuf::from(env::var("OUT_DIR")?);

    let public = protox::compile(PUBLIC, [ROOT])?;
    fs::write(out.join("public.bin"), public.encode_to_vec())?;

    // The internal services keep the library's codec: their streams are few and their messages large.
    let kv = protox::compile(KV, [ROOT])?;
    tonic_prost_build::configure().bytes(".").codec_path("crate::Codec").compile_fds(kv)?;
    let others = protox::compile(PUBLIC.iter().chain(INTERNAL).filter(|file| !KV.contains(file)), [ROOT])?;
    tonic_prost_build::configure().bytes(".").compile_fds(others)?;
    Ok(())
}
