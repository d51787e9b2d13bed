//! Settings of asynchronous jobs.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::check::{ConfigError, setting};

/// Asynchronous jobs. They are off unless a queue is named.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct JobsConfig {
    /// NATS servers that have JetStream: `nats://` or `tls://`, several of a cluster separated by commas.
    pub nats_url: Option<String>,
    /// Kafka brokers to begin with, `host:9092`, several separated by commas; in place of NATS.
    pub kafka_brokers: Option<String>,
    /// Partitions of topics that are made: so many workers share the parts of one model.
    pub kafka_partitions: usize,
    /// Settings of librdkafka, for brokers that want more than their address.
    pub kafka_properties: BTreeMap<String, String>,
    /// What the names of streams, buckets and subjects begin with; two installations on one NATS or Kafka have two names.
    pub namespace: String,
    /// Inputs of one job.
    pub max_inputs: usize,
    /// Inputs of a part, at most. Parts are what workers share, and what is done again when one of them dies.
    pub part_inputs: usize,
    /// Parts of one model that a worker holds at once.
    pub concurrency: usize,
    /// Parts of one model that all workers hold at once, in NATS.
    pub max_ack_pending: usize,
    /// Times that a part is given to a worker before it goes to the dead letters.
    pub max_deliver: usize,
    /// Seconds until a part whose worker gives no sign of life is given to another one.
    pub ack_wait_s: f64,
    /// Seconds until a part that failed is tried again; twice as many each time.
    pub retry_delay_s: f64,
    /// Seconds that a worker may take for a part.
    pub part_timeout_s: f64,
    /// Seconds that jobs, their results and dead letters are kept.
    pub retention_s: f64,
    /// Parts that may wait; jobs beyond are refused with 429.
    pub max_queued_parts: u64,
    /// Bytes of parts that may wait, and of large pictures beside them, in NATS; Kafka's topics have limits of their own.
    pub max_queued_bytes: u64,
    /// Servers of a cluster that keep a copy of each message.
    pub replicas: usize,
}

impl Default for JobsConfig {
    fn default() -> Self {
        JobsConfig {
            nats_url: None,
            kafka_brokers: None,
            kafka_partitions: 12,
            kafka_properties: BTreeMap::new(),
            namespace: "lenslet".into(),
            max_inputs: 50_000,
            part_inputs: 32,
            concurrency: 8,
            max_ack_pending: 1024,
            max_deliver: 8,
            ack_wait_s: 30.0,
            retry_delay_s: 2.0,
            part_timeout_s: 600.0,
            retention_s: 7.0 * 86_400.0,
            max_queued_parts: 1_000_000,
            max_queued_bytes: 1 << 30,
            replicas: 1,
        }
    }
}

/// JetStream keeps the sizes of its streams as signed numbers.
const LARGEST: u64 = i64::MAX as u64;

impl JobsConfig {
    /// Whether a queue is named.
    pub fn enabled(&self) -> bool {
        self.nats_url.is_some() || self.kafka_brokers.is_some()
    }

    /// Makes sure that the settings can work.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let counts = [
            ("jobs.max_inputs", self.max_inputs, 1_000_000),
            ("jobs.part_inputs", self.part_inputs, MAX_PART_INPUTS),
            ("jobs.concurrency", self.concurrency, 4096),
            ("jobs.max_ack_pending", self.max_ack_pending, 1_000_000),
            ("jobs.max_deliver", self.max_deliver, 1000),
            ("jobs.kafka_partitions", self.kafka_partitions, 1024),
            ("jobs.replicas", self.replicas, 5),
        ];
        if let Some((name, value, most)) = counts.iter().find(|(_, value, most)| !(1..=*most).contains(value)) {
            return setting(name, format!("is {value}; it must be 1 to {most}"));
        }
        let sizes =
            [("jobs.max_queued_parts", self.max_queued_parts), ("jobs.max_queued_bytes", self.max_queued_bytes)];
        if let Some((name, value)) = sizes.iter().find(|(_, value)| !(1..=LARGEST).contains(value)) {
            return setting(name, format!("is {value}; it must be 1 to {LARGEST}"));
        }
        let seconds = [
            ("jobs.ack_wait_s", self.ack_wait_s, 1.0),
            ("jobs.retry_delay_s", self.retry_delay_s, 0.0),
            ("jobs.part_timeout_s", self.part_timeout_s, 0.1),
            ("jobs.retention_s", self.retention_s, 60.0),
        ];
        if let Some((name, value, least)) = seconds.iter().find(|(_, value, least)| !(*least..=1e8).contains(value)) {
            return setting(name, format!("is {value}; it must be {least} to 100000000"));
        }
        let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        if self.namespace.is_empty() || self.namespace.len() > 32 || !self.namespace.chars().all(fine) {
            return setting("jobs.namespace", format!("{:?}: 1 to 32 letters, digits, '-' and '_'", self.namespace));
        }
        if self.nats_url.is_some() && self.kafka_brokers.is_some() {
            return setting(
                "jobs.kafka_brokers",
                "is given beside jobs.nats_url; jobs have one queue, leave out the other",
            );
        }
        match &self.kafka_brokers {
            Some(_) if !cfg!(feature = "kafka") => {
                return setting("jobs.kafka_brokers", "this server was built without the feature kafka");
            }
            Some(brokers) if !brokers.split(',').all(is_broker) => {
                let what = "is no list of brokers; kafka-1:9092,kafka-2:9092 is one";
                return setting("jobs.kafka_brokers", what);
            }
            None if !self.kafka_properties.is_empty() => {
                return setting("jobs.kafka_properties", "needs jobs.kafka_brokers");
            }
            _ => {}
        }
        match &self.nats_url {
            Some(_) if !cfg!(feature = "nats") => {
                setting("jobs.nats_url", "this server was built without the feature nats")
            }
            Some(urls) if !urls.split(',').all(is_nats) => {
                // An address may hold a password.
                setting("jobs.nats_url", "is no address; nats://host:4222 is one, several are separated by commas")
            }
            _ => Ok(()),
        }
    }
}

/// Inputs of a part, whoever made it.
pub const MAX_PART_INPUTS: usize = 1024;

fn is_broker(broker: &str) -> bool {
    let authority = broker.trim().parse::<axum::http::uri::Authority>();
    authority.is_ok_and(|broker| !broker.host().is_empty() && broker.port().is_some() && !broker.as_str().contains('@'))
}

fn is_nats(url: &str) -> bool {
    let rest = url.trim().strip_prefix("nats://").or_else(|| url.trim().strip_prefix("tls://"));
    let Some(rest) = rest else { return false };
    let server = rest.rsplit_once('@').map_or(rest, |(_, server)| server);
    let authority = server.parse::<axum::http::uri::Authority>();
    authority.is_ok_and(|authority| !authority.host().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(toml: &str) -> Result<(), String> {
        let config: JobsConfig = toml::from_str(toml).map_err(|e| e.to_string())?;
        config.check().map_err(|e| e.to_string())
    }

    #[test]
    fn settings_that_cannot_work_are_named() {
        assert_eq!(checked(""), Ok(()));
        for (toml, start) in [
            ("nats_url = \"http://queue:4222\"", "jobs.nats_url: "),
            ("nats_url = \"nats://\"", "jobs.nats_url: "),
            ("nats_url = \"nats://a:4222,b:4222\"", "jobs.nats_url: "),
            ("namespace = \"a.b\"", "jobs.namespace: "),
            ("part_inputs = 0", "jobs.part_inputs: "),
            ("part_inputs = 5000", "jobs.part_inputs: "),
            ("replicas = 7", "jobs.replicas: "),
            ("ack_wait_s = 0.1", "jobs.ack_wait_s: "),
            ("retention_s = nan", "jobs.retention_s: "),
            ("max_queued_bytes = 0", "jobs.max_queued_bytes: "),
            ("nats_url = \"nats://a:4222\"\nkafka_brokers = \"b:9092\"", "jobs.kafka_brokers: "),
            ("kafka_brokers = \"kafka\"", "jobs.kafka_brokers: "),
            ("kafka_brokers = \"kafka://a:9092\"", "jobs.kafka_brokers: "),
            ("kafka_brokers = \"a:9092,,b:9092\"", "jobs.kafka_brokers: "),
            ("kafka_brokers = \"a:99999\"", "jobs.kafka_brokers: "),
            ("kafka_partitions = 0", "jobs.kafka_partitions: "),
            ("[kafka_properties]\n\"client.id\" = \"x\"", "jobs.kafka_properties: "),
            ("inputs = 3", "TOML"),
        ] {
            let error = checked(toml).unwrap_err();
            assert!(error.contains(start), "{toml}: {error}");
        }
    }

    #[cfg(feature = "kafka")]
    #[test]
    fn brokers_are_addresses_with_ports() {
        for brokers in ["localhost:9092", "kafka-1.example:9092, kafka-2.example:9092", "[::1]:9092"] {
            assert_eq!(checked(&format!("kafka_brokers = \"{brokers}\"")), Ok(()));
        }
    }

    #[cfg(feature = "nats")]
    #[test]
    fn a_password_is_not_repeated() {
        assert_eq!(checked("nats_url = \"nats://user:secret@queue:4222, tls://b.example\""), Ok(()));
        let error = checked("nats_url = \"user:secret@queue:4222\"").unwrap_err();
        assert!(!error.contains("secret"), "{error}");
    }
}
