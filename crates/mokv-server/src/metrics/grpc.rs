//! Counts and times gRPC calls, in a table with a row for each method, made at the start from the services'
//! descriptors. So a call costs a search among a few dozen names and four atomic additions, and no client can make the
//! table grow; what has no row is counted together as `other`.
//!
//! Names and labels are those of go-grpc-prometheus, which the usual dashboards ask for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prost::Message;
use prost_types::FileDescriptorSet;
use tokio::time::Instant;
use tonic::Code;

use super::histogram::{Histogram, latencies};
use super::text::{Kind, Label, Page};

/// The codes as go-grpc-prometheus writes them, by number.
const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

/// The name of the row for what has none.
const OTHER: &str = "other";

/// The calls that a gRPC server took.
#[derive(Debug)]
pub struct GrpcMetrics {
    /// By path.
    methods: Vec<MethodMetrics>,
    other: MethodMetrics,
}

#[derive(Debug)]
struct MethodMetrics {
    /// As in a request: `/service/method`.
    path: String,
    service: String,
    method: String,
    call_type: CallType,
    started: AtomicU64,
    handled: [AtomicU64; CODES.len()],
    seconds: Histogram,
}

/// Which sides of a call stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallType {
    /// One message each way.
    Unary,
    /// One question, many answers.
    ServerStream,
    /// Many messages, one answer.
    ClientStream,
    /// Many each way.
    BidiStream,
    /// Nobody knows: the method has no row.
    Unknown,
}

impl CallType {
    fn as_str(self) -> &'static str {
        match self {
            Self::Unary => "unary",
            Self::ServerStream => "server_stream",
            Self::ClientStream => "client_stream",
            Self::BidiStream => "bidi_stream",
            Self::Unknown => "unknown",
        }
    }
}

impl GrpcMetrics {
    /// A row for each method of the services in these encoded `FileDescriptorSet`s.
    ///
    /// # Panics
    ///
    /// If one does not decode: they are compiled into the program.
    pub fn new(descriptors: &[&[u8]]) -> Self {
        let decode = |encoded: &&[u8]| FileDescriptorSet::decode(*encoded).expect("descriptors are generated");
        let mut methods: Vec<MethodMetrics> = descriptors.iter().map(decode).flat_map(methods).collect();
        methods.sort_by(|a, b| a.path.cmp(&b.path));
        methods.dedup_by(|a, b| a.path == b.path);
        Self { methods, other: MethodMetrics::new(OTHER, OTHER, CallType::Unknown) }
    }

    /// Counts a call that begins now. The caller says how it ends; a call that is dropped before is counted as
    /// cancelled.
    pub fn start(self: &Arc<Self>, path: &str) -> Call {
        let row = self.methods.binary_search_by(|method| method.path.as_str().cmp(path)).ok();
        self.method(row).started.fetch_add(1, Ordering::Relaxed);
        Call { metrics: self.clone(), row, began: Instant::now(), ended: false }
    }

    fn method(&self, row: Option<usize>) -> &MethodMetrics {
        row.map_or(&self.other, |row| &self.methods[row])
    }

    fn rows(&self) -> impl Iterator<Item = (&MethodMetrics, [Label<'_>; 3])> {
        self.methods.iter().chain([&self.other]).map(|method| {
            let labels = [
                ("grpc_type", method.call_type.as_str()),
                ("grpc_service", method.service.as_str()),
                ("grpc_method", method.method.as_str()),
            ];
            (method, labels)
        })
    }

    /// Writes what was counted.
    pub(crate) fn write(&self, page: &mut Page) {
        let mut started = page.family(Kind::Counter, "grpc_server_started_total", "gRPC calls that began.");
        for (method, labels) in self.rows() {
            started.sample(&labels, method.started.load(Ordering::Relaxed));
        }

        let help = "gRPC calls that ended, by status code. Canceled: the caller went away before the answer.";
        let mut handled = page.family(Kind::Counter, "grpc_server_handled_total", help);
        for (method, [call_type, service, name]) in self.rows() {
            for (code, count) in CODES.iter().zip(&method.handled) {
                let count = count.load(Ordering::Relaxed);
                // A counter that appears with its first value hides that value from rate(); but most pairs of a method
                // and a code never happen.
                if count > 0 || *code == CODES[Code::Ok as usize] {
                    handled.sample(&[call_type, service, name, ("grpc_code", code)], count);
                }
            }
        }

        let help = "How long gRPC calls took, until their answer was ready; streams: until their end.";
        let mut seconds = page.family(Kind::Histogram, "grpc_server_handling_seconds", help);
        for (method, labels) in self.rows() {
            seconds.histogram(&labels, &method.seconds.snapshot());
        }
    }
}

impl MethodMetrics {
    fn new(service: &str, method: &str, call_type: CallType) -> Self {
        Self {
            path: format!("/{service}/{method}"),
            service: service.to_owned(),
            method: method.to_owned(),
            call_type,
            started: AtomicU64::new(0),
            handled: [const { AtomicU64::new(0) }; CODES.len()],
            // From a local read of a small value (some 20 us) to the longest that a call may take (10 s by default).
            seconds: Histogram::new(latencies(Duration::from_micros(100), Duration::from_secs(10))),
        }
    }
}

fn methods(descriptors: FileDescriptorSet) -> impl Iterator<Item = MethodMetrics> {
    descriptors.file.into_iter().flat_map(|file| {
        let package = file.package().to_owned();
        file.service.into_iter().flat_map(move |service| {
            let name = format!("{package}.{}", service.name());
            service.method.into_iter().map(move |method| {
                let call_type = match (method.client_streaming(), method.server_streaming()) {
                    (false, false) => CallType::Unary,
                    (false, true) => CallType::ServerStream,
                    (true, false) => CallType::ClientStream,
                    (true, true) => CallType::BidiStream,
                };
                MethodMetrics::new(&name, method.name(), call_type)
            })
        })
    })
}

/// A call that is under way.
#[derive(Debug)]
pub struct Call {
    metrics: Arc<GrpcMetrics>,
    row: Option<usize>,
    began: Instant,
    ended: bool,
}

impl Call {
    /// Which sides of the call stream.
    pub fn call_type(&self) -> CallType {
        self.metrics.method(self.row).call_type
    }

    /// The call ends now.
    pub fn end(mut self, code: Code) {
        self.record(code);
    }

    fn record(&mut self, code: Code) {
        let method = self.metrics.method(self.row);
        method.handled[code as usize].fetch_add(1, Ordering::Relaxed);
        method.seconds.observe(self.began.elapsed());
        self.ended = true;
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if !self.ended {
            self.record(Code::Cancelled);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(metrics: &GrpcMetrics) -> String {
        let mut page = Page::default();
        metrics.write(&mut page);
        page.into_text()
    }

    #[tokio::test]
    async fn calls_are_counted_by_method_and_code() {
        let metrics = Arc::new(GrpcMetrics::new(&[mokv_proto::PUBLIC_DESCRIPTORS]));
        metrics.start("/api.KV/Get").end(Code::NotFound);
        metrics.start("/api.KV/Get").end(Code::Ok);
        drop(metrics.start("/api.KV/List"));
        for nonsense in ["/api.KV/get", "/", "", "/no.such.Service/Method"] {
            metrics.start(nonsense).end(Code::Unimplemented);
        }

        let text = text(&metrics);
        let get = r#"grpc_type="unary",grpc_service="api.KV",grpc_method="Get""#;
        let list = r#"grpc_type="server_stream",grpc_service="api.KV",grpc_method="List""#;
        let other = r#"grpc_type="unknown",grpc_service="other",grpc_method="other""#;
        for line in [
            format!("grpc_server_started_total{{{get}}} 2\n"),
            format!("grpc_server_handled_total{{{get},grpc_code=\"OK\"}} 1\n"),
            format!("grpc_server_handled_total{{{get},grpc_code=\"NotFound\"}} 1\n"),
            format!("grpc_server_handling_seconds_count{{{get}}} 2\n"),
            format!("grpc_server_handled_total{{{list},grpc_code=\"Canceled\"}} 1\n"),
            format!("grpc_server_handled_total{{{other},grpc_code=\"Unimplemented\"}} 4\n"),
        ] {
            assert!(text.contains(&line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn every_code_has_its_name() {
        for (number, name) in CODES.iter().enumerate() {
            let code = Code::from_i32(i32::try_from(number).expect("small"));
            assert_eq!(code as usize, number);
            let same = format!("{code:?}").replace("Ok", "OK").replace("Cancelled", "Canceled");
            assert_eq!(*name, same);
        }
    }
}
