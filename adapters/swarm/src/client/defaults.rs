//! What holds where the configuration says nothing (wire protocol §1.4, §4.1).

use corolla_domain::ports::{FaultKind, PortError};

use crate::wire::server;

/// Where the public Petals swarm is entered.
pub const PUBLIC_INITIAL_PEERS: [&str; 6] = [
    "/dns/bootstrap1.petals.dev/tcp/31337/p2p/QmedTaZXmULqwspJXz44SsPZyTNKxhnnFvYRajfH7MGhCY",
    "/dns/bootstrap2.petals.dev/tcp/31338/p2p/QmQGTqmM7NKjV6ggU1ZCap8zWiyKR89RViDXiqehSiCpY5",
    "/dns6/bootstrap1.petals.dev/tcp/31337/p2p/QmedTaZXmULqwspJXz44SsPZyTNKxhnnFvYRajfH7MGhCY",
    "/dns6/bootstrap2.petals.dev/tcp/31338/p2p/QmQGTqmM7NKjV6ggU1ZCap8zWiyKR89RViDXiqehSiCpY5",
    "/ip4/159.89.214.152/tcp/31337/p2p/QmedTaZXmULqwspJXz44SsPZyTNKxhnnFvYRajfH7MGhCY",
    "/ip4/159.203.156.48/tcp/31338/p2p/QmQGTqmM7NKjV6ggU1ZCap8zWiyKR89RViDXiqehSiCpY5",
];

/// The DHT prefix by the rule of the model's family; `repository` is its Hugging Face name, `owner/name`.
///
/// # Errors
/// `Unsupported` for a family without a rule.
pub fn default_dht_prefix(family: &str, repository: &str) -> Result<String, PortError> {
    server::default_prefix(family, repository).ok_or_else(|| {
        let text = format!("no rule gives the DHT prefix of a {family} model; set dht_prefix");
        PortError::new(FaultKind::Unsupported, text)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_follow_the_families_rules() {
        for (family, repository, prefix) in [
            ("bloom", "bigscience/bloom-560m", "bigscience/bloom-560m-petals"),
            ("bloom", "bigscience/bloom-petals", "bigscience/bloom-petals"),
            ("llama", "meta-llama/Llama-2-7b", "Llama-2-7b-hf"),
            ("llama", "meta-llama/Llama-2-7b-hf", "Llama-2-7b-hf"),
            ("llama", "meta-llama/Meta-Llama-3.1-8B", "Meta-Llama-3-1-8B-hf"),
            ("falcon", "tiiuae/falcon-7b", "falcon-7b"),
            ("mixtral", "mistralai/Mixtral-8x7B-v0.1", "mistralai/Mixtral-8x7B-v0-1"),
        ] {
            assert_eq!(default_dht_prefix(family, repository).unwrap(), prefix);
        }
        assert_eq!(default_dht_prefix("gpt2", "gpt2").unwrap_err().kind(), FaultKind::Unsupported);
    }
}
