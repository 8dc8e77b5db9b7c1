//! The options that every client command has: whom to ask, and how long to wait.

use std::time::Duration;

use clap::Args;
use mokv_client::Client;
use mokv_server::config::parse_duration;

use crate::exit::Failure;

/// Whom to ask, and how long to wait.
#[derive(Debug, Args)]
pub(crate) struct ClusterArgs {
    /// Nodes of the cluster: host:port, several separated by commas
    #[arg(long, env = "MOKV_ENDPOINTS", value_name = "HOST:PORT,...", default_value = "127.0.0.1:8400")]
    pub(crate) endpoints: String,

    /// How long to wait for an answer
    #[arg(long, env = "MOKV_TIMEOUT", value_name = "DURATION", default_value = "10s", value_parser = parse_duration)]
    timeout: Duration,
}

impl ClusterArgs {
    /// The client that the options describe. It does not wait for nodes where there are none.
    pub(crate) fn client(&self) -> Result<Client, Failure> {
        Ok(self.patient_client()?.fail_fast())
    }

    /// A client that waits for nodes to come back.
    pub(crate) fn patient_client(&self) -> Result<Client, Failure> {
        Ok(Client::connect(&self.endpoints).map_err(Failure::usage)?.with_timeout(self.timeout))
    }

    /// A client for a command that goes on until it is told to end: somebody has to be there when it begins, from then on it
    /// waits for nodes to come back.
    pub(crate) async fn lasting_client(&self) -> Result<Client, Failure> {
        self.client()?.servers().await?;
        self.patient_client()
    }

    /// A client of one node and no other, with the same timeout.
    pub(crate) fn client_of(&self, address: &str) -> Result<Client, Failure> {
        let client = Client::connect(&format!("{address}?routing=single")).map_err(Failure::usage)?;
        Ok(client.with_timeout(self.timeout).fail_fast())
    }
}
