//! The gRPC contracts of mökv: generated types, and how they become bytes.
//!
//! - [`api`]: the public key-value service, wire-compatible with the original project.
//! - [`cluster`]: operating a cluster.
//! - [`internal`]: what nodes say to each other and write to disk. Not for clients.

// Generated code is documented in the .proto files.
#![allow(missing_docs, unreachable_pub)]

mod codec;

pub use codec::Codec;

/// `api.KV`, the public contract.
pub mod api {
    tonic::include_proto!("api");
}

/// The other packages, nested as their names are, because generated code refers to them that way.
mod mokv {
    pub mod cluster {
        pub mod v1 {
            tonic::include_proto!("mokv.cluster.v1");
        }
    }
    pub mod internal {
        pub mod v1 {
            tonic::include_proto!("mokv.internal.v1");
        }
    }
}

pub use mokv::cluster::v1 as cluster;
pub use mokv::internal::v1 as internal;

/// The descriptors of the public services, for gRPC server reflection.
pub const PUBLIC_DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/public.bin"));
