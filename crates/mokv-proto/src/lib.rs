//! The gRPC contracts of mökv: generated types and nothing else.
//!
//! - [`api`]: the public key-value service, wire-compatible with the original project.
//! - [`cluster`]: operating a cluster.
//! - [`internal`]: what nodes say to each other and write to disk. Not for clients.

// Generated code is documented in the .proto files.
#![allow(missing_docs, unreachable_pub)]

/// `api.KV`, the public contract.
pub mod api {
    tonic::include_proto!("api");
}

/// `mokv.cluster.v1`, for operators.
pub mod cluster {
    tonic::include_proto!("mokv.cluster.v1");
}

/// `mokv.internal.v1`: peer to peer, log entries, snapshots.
pub mod internal {
    tonic::include_proto!("mokv.internal.v1");
}

/// The descriptors of the public services, for gRPC server reflection.
pub const PUBLIC_DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/public.bin"));
