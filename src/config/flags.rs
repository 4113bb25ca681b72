//! Flags that are about one model: they change what the other layers say of it.

use super::{
    choice::Blocks,
    typed::{Host, HostFlags, Model, Overrides, Swarm, Typed},
};
use crate::join::JoinToken;

/// What is typed, with the flags on top.
///
/// # Errors
/// A sentence that names the flag and the fix.
pub(super) fn merge(mut typed: Typed, flags: &Overrides) -> Result<Typed, String> {
    let token = flags.join.as_deref().map(str::parse::<JoinToken>).transpose();
    let token = token.map_err(|fault| format!("--join: {fault}"))?;
    let joined = token.and_then(|token| token.model);
    if let Some(path) = &flags.path {
        let stem = || path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let prefix = flags.host.as_ref().and_then(|host| host.dht_prefix.clone());
        let id = joined.clone().or(prefix).unwrap_or_else(stem);
        typed.default_model = Some(id.clone());
        typed.models = vec![Model::new(id, path.clone())];
    } else if flags.host.is_some() {
        typed.models = vec![to_host(typed.models, joined.as_deref())?];
        typed.default_model = None;
    }
    let wanted = joined.filter(|_| flags.host.is_none()).or_else(|| typed.default_model.clone());
    let model = typed.models.iter_mut().find(|model| wanted.as_ref().is_none_or(|id| *id == model.id));
    match (model, wanted) {
        (Some(model), _) => about(model, flags),
        (None, Some(id)) if flags.join.is_some() => {
            return Err(format!(
                "--join: the swarm runs model {id}, which is not configured; say where its files are with --model PATH, or \
                 add it to the configuration file as a model with id = \"{id}\""
            ));
        }
        (None, _) => {} // a default_model that is none of the models is found out later
    }
    Ok(typed)
}

/// The model that is configured to be hosted.
fn to_host(models: Vec<Model>, joined: Option<&str>) -> Result<Model, String> {
    let configured = |model: &Model| model.host.is_some() && joined.is_none_or(|id| id == model.id);
    let mut hosted = models.into_iter().filter(configured);
    match (hosted.next(), hosted.next()) {
        (Some(model), None) => Ok(model),
        (None, _) => {
            Err("which model's blocks? Say where it is with --model PATH, or add a [models.host] table to a model \
                          of the configuration file"
                .to_owned())
        }
        (Some(one), Some(other)) => Err(format!(
            "models {} and {} both have a [models.host] table, and this command hosts one; say which with --model PATH",
            one.id, other.id
        )),
    }
}

fn about(model: &mut Model, flags: &Overrides) {
    model.backend = flags.backend.unwrap_or(model.backend);
    model.dtype = flags.dtype.unwrap_or(model.dtype);
    model.kv_cache = flags.kv_cache.unwrap_or(model.kv_cache);
    if flags.join.is_some() {
        let swarm = model.swarm.get_or_insert_default();
        // A token says it all: what the file says of another swarm must not be mixed in.
        *swarm = Swarm {
            join: flags.join.clone(),
            initial_peers: None,
            dht_prefix: None,
            secret_file: None,
            ..std::mem::take(swarm)
        };
        if flags.host.is_none() && model.host.is_none() && model.block_range.is_none() {
            model.blocks = Blocks::Swarm;
        }
    }
    if let Some(host) = &flags.host {
        about_host(model, host);
    }
}

fn about_host(model: &mut Model, flags: &HostFlags) {
    fn set<T: Clone>(key: &mut Option<T>, flag: &Option<T>) {
        if flag.is_some() {
            key.clone_from(flag);
        }
    }
    model.ends = false;
    set(&mut model.block_range, &flags.blocks);
    set(&mut model.threads, &flags.threads);
    if flags.cache_tokens.is_some() || flags.cache_bytes.is_some() {
        (model.cache_tokens, model.cache_bytes) = (flags.cache_tokens, flags.cache_bytes.clone());
    }
    let swarm = model.swarm.get_or_insert_default();
    set(&mut swarm.initial_peers, &flags.initial_peers);
    set(&mut swarm.dht_prefix, &flags.dht_prefix);
    set(&mut swarm.secret_file, &flags.secret_file);
    set(&mut swarm.allowed_peers, &flags.allowed_peers);
    let host = model.host.get_or_insert_with(Host::default);
    set(&mut host.listen, &flags.listen);
    set(&mut host.identity, &flags.identity);
    if let Some(count) = flags.num_blocks {
        (host.num_blocks, model.block_range) = (count, None); // the flag wins over the file
    }
    host.reach = flags.reach.unwrap_or(host.reach);
    set(&mut host.public_name, &flags.public_name);
    set(&mut host.update_period, &flags.update_period);
    set(&mut host.drain, &flags.drain);
}
