//! `mokv kubernetes`: what the Helm chart calls.
//!
//! A StatefulSet that is scaled down stops pods whose nodes are members: each would count as failed, and two at once may
//! be a majority. So a pod that is stopped asks how many there are to be, and leaves the cluster first if it is none of
//! them. A pod that is restarted, moved or deleted with its release stays a member.

use std::env;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand};
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::header::{ACCEPT, AUTHORIZATION, HOST};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};

use crate::cluster_args::ClusterArgs;
use crate::exit::Failure;
use crate::output;

/// Where Kubernetes puts what a pod needs to talk to it.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// How often a question that failed is asked again, within the timeout.
const RETRY: Duration = Duration::from_millis(500);

/// What the Helm chart calls
#[derive(Debug, Args)]
pub(crate) struct KubernetesArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    PreStop(PreStopArgs),
}

/// Leave the cluster if this pod was scaled away, else do nothing
#[derive(Debug, Args)]
struct PreStopArgs {
    /// The StatefulSet that the pod is of
    #[arg(long, value_name = "NAME")]
    stateful_set: String,

    /// Its namespace
    #[arg(long, value_name = "NAME")]
    namespace: String,

    /// The pod's name, which ends with its ordinal
    #[arg(long, env = "MOKV_NODE_NAME", value_name = "NAME")]
    pod: String,

    /// The folder of the service account
    #[arg(long, value_name = "DIR", default_value = SERVICE_ACCOUNT, hide = true)]
    service_account: String,

    #[command(flatten)]
    cluster: ClusterArgs,
}

impl KubernetesArgs {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let Command::PreStop(args) = self.command;
        args.run().await
    }
}

impl PreStopArgs {
    async fn run(self) -> Result<(), Failure> {
        let ordinal = ordinal(&self.pod).ok_or_else(|| {
            Failure::usage(format!("{} does not end with an ordinal, as the pods of a StatefulSet do", self.pod))
        })?;
        let deadline = Instant::now() + self.cluster.timeout;
        let api = Api::of_pod(Path::new(&self.service_account))?;
        let path = format!("/apis/apps/v1/namespaces/{}/statefulsets/{}", self.namespace, self.stateful_set);
        let stateful_set: StatefulSet = api.get(&path, deadline).await.map_err(|error| {
            Failure::error(format!(
                "{error}; {} stays a member. If it was scaled away, it is removed after failed-grace, or by `mokv member remove`",
                self.pod
            ))
        })?;
        if !stateful_set.was_scaled_away(ordinal) {
            return Ok(output::line(format_args!("{} stays a member", self.pod))?);
        }
        let client = self.cluster.client()?;
        let node_id = client.status().await?.node_id;
        client.leave(&node_id.to_string()).await?;
        Ok(output::line(format_args!("{} was scaled away, and has left", self.pod))?)
    }
}

fn ordinal(pod: &str) -> Option<u32> {
    pod.rsplit_once('-')?.1.parse().ok()
}

/// What matters of a StatefulSet.
#[derive(Debug, Deserialize)]
struct StatefulSet {
    metadata: Metadata,
    spec: Spec,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    deletion_timestamp: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Spec {
    replicas: Option<u32>,
    ordinals: Option<Ordinals>,
}

#[derive(Debug, Deserialize)]
struct Ordinals {
    #[serde(default)]
    start: u32,
}

impl StatefulSet {
    /// Whether it is to go on without the pod with this ordinal. One that is deleted, or scaled to nothing, does not go on: all
    /// of its nodes stay members, so that their disks are a cluster when they come back.
    fn was_scaled_away(&self, ordinal: u32) -> bool {
        let start = self.spec.ordinals.as_ref().map_or(0, |ordinals| ordinals.start);
        let replicas = self.spec.replicas.unwrap_or(1);
        self.metadata.deletion_timestamp.is_none()
            && replicas > 0
            && !(start..start.saturating_add(replicas)).contains(&ordinal)
    }
}

/// The API server, as a pod reaches it.
struct Api {
    host: String,
    port: u16,
    token: String,
    tls: TlsConnector,
}

impl Api {
    fn of_pod(service_account: &Path) -> Result<Self, Failure> {
        let variable = |name| env::var(name).map_err(|_| Failure::error(format!("{name} is not set: this is no pod")));
        let read = |name: &str| {
            let path = service_account.join(name);
            let hint = "is automountServiceAccountToken on?";
            fs::read(&path).map_err(|error| Failure::error(format!("{}: {error}: {hint}", path.display())))
        };
        let port = variable("KUBERNETES_SERVICE_PORT")?;
        let port = port.parse().map_err(|_| Failure::error(format!("KUBERNETES_SERVICE_PORT is {port}: no port")))?;
        let token = String::from_utf8_lossy(&read("token")?).trim().to_owned();
        let unusable = |error: &dyn std::fmt::Display| Failure::error(format!("the service account's ca.crt: {error}"));
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&read("ca.crt")?) {
            roots.add(certificate.map_err(|error| unusable(&error))?).map_err(|error| unusable(&error))?;
        }
        let config = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| unusable(&error))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { host: variable("KUBERNETES_SERVICE_HOST")?, port, token, tls: TlsConnector::from(Arc::new(config)) })
    }

    /// Asks until there is an answer, or until the deadline. What is forbidden or missing stays so.
    async fn get<T: for<'de> Deserialize<'de>>(&self, path: &str, deadline: Instant) -> Result<T, String> {
        loop {
            let asked = timeout_at(deadline, self.ask(path));
            let error = match asked.await {
                Ok(Ok((StatusCode::OK, body))) => {
                    return serde_json::from_slice(&body).map_err(|error| format!("{path}: {error}"));
                }
                Ok(Ok((status, _))) if status.is_client_error() => {
                    return Err(format!("the API server answers {status} to GET {path}"));
                }
                Ok(Ok((status, _))) => format!("the API server answers {status} to GET {path}"),
                Ok(Err(error)) => format!("the API server at {}:{} does not answer: {error}", self.host, self.port),
                Err(_) => format!("the API server at {}:{} does not answer in time", self.host, self.port),
            };
            if Instant::now() + RETRY >= deadline {
                return Err(error);
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn ask(&self, path: &str) -> Result<(StatusCode, Bytes), Box<dyn std::error::Error + Send + Sync>> {
        let tcp = TcpStream::connect((self.host.as_str(), self.port)).await?;
        let tls = self.tls.connect(ServerName::try_from(self.host.clone())?, tcp).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls)).await?;
        // Ends with the sender.
        tokio::spawn(connection);
        let request = Request::get(path)
            .header(HOST, &self.host)
            .header(ACCEPT, "application/json")
            .header(AUTHORIZATION, format!("Bearer {}", self.token))
            .body(Empty::<Bytes>::new())?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        Ok((status, response.into_body().collect().await?.to_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stateful_set(json: &str) -> StatefulSet {
        serde_json::from_str(json).expect("a StatefulSet")
    }

    #[test]
    fn only_who_was_scaled_away_leaves() {
        let table = [
            (r#"{"metadata": {}, "spec": {"replicas": 3}}"#, [false, false, false, true, true]),
            (r#"{"metadata": {}, "spec": {}}"#, [false, true, true, true, true]),
            // Numbered from another ordinal on.
            (
                r#"{"metadata": {}, "spec": {"replicas": 2, "ordinals": {"start": 1}}}"#,
                [true, false, false, true, true],
            ),
            // Uninstalled, or put to sleep.
            (r#"{"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"replicas": 3}}"#, [false; 5]),
            (r#"{"metadata": {}, "spec": {"replicas": 0}}"#, [false; 5]),
        ];
        for (json, expected) in table {
            let set = stateful_set(json);
            assert_eq!([0, 1, 2, 3, 4].map(|ordinal| set.was_scaled_away(ordinal)), expected, "{json}");
        }
    }

    #[test]
    fn a_pods_ordinal_is_the_end_of_its_name() {
        assert_eq!(ordinal("my-mokv-12"), Some(12));
        assert_eq!(ordinal("mokv"), None);
        assert_eq!(ordinal("mokv-a"), None);
    }
}
