//! `/api/v1/swarm`: who runs the blocks of each model, and the route a reply would take.

use std::sync::Arc;

use corolla_domain::{
    model::{ModelSpec, ServerInfo, SwarmMap},
    routing::plan,
    session::{ModelEntry, SessionService},
};
use poem_openapi::{ApiResponse, Object, OpenApi, payload::Json};

use crate::{
    route::RouteHop,
    settings::{ApiSettings, Entrance},
    spec::Tag,
};

/// The swarms behind the models of this server.
#[derive(Debug, Object)]
pub(crate) struct Swarms {
    /// Every loaded model, in the order of the configuration.
    models: Vec<ModelSwarm>,
}

/// Who runs the transformer blocks of one model. Blocks of this process are those of the server `in-process`; where it has
/// all, there is no other.
#[derive(Debug, Object)]
pub(crate) struct ModelSwarm {
    /// The model's name.
    model: String,
    /// Number of its blocks.
    blocks: u64,
    /// Blocks that nobody hosts; no reply is possible while there are any.
    missing: Vec<u64>,
    /// The hops that a reply would take now.
    route: Vec<RouteHop>,
    /// Everybody who hosts blocks.
    servers: Vec<SwarmServer>,
    /// Why the swarm, or all of it that is not in this process, cannot be seen, where it cannot.
    #[oai(nullable)]
    fault: Option<String>,
    /// The token by which another machine hosts blocks here: `corolla host --join TOKEN --model PATH`. Null where there is no
    /// swarm, and where a secret or a list of members keeps strangers out: who runs the swarm gives the token then.
    #[oai(nullable)]
    join: Option<String>,
    /// Name of the file or folder that the model is read from, without its path: what hosts need too, in this format or
    /// another.
    #[oai(nullable)]
    file: Option<String>,
}

/// One server of a swarm.
#[derive(Debug, Object)]
pub(crate) struct SwarmServer {
    /// Its id.
    peer: String,
    /// First block it hosts.
    start: u64,
    /// Block after the last one.
    end: u64,
    /// Steps of one block it does in a second.
    rps: f64,
    /// Round trip to it in milliseconds; null where it has not been measured.
    #[oai(nullable)]
    rtt_ms: Option<f64>,
    /// Tokens that its cache can still take; null where it does not say.
    #[oai(nullable)]
    free_tokens: Option<u64>,
    /// Whether it is reached through a relay.
    #[oai(nullable)]
    relayed: Option<bool>,
    /// Version of its software.
    #[oai(nullable)]
    version: Option<String>,
    /// What it computes with.
    #[oai(nullable)]
    dtype: Option<String>,
    /// The name its operator gave it.
    #[oai(nullable)]
    name: Option<String>,
}

/// The operation on swarms.
#[derive(Clone)]
pub(crate) struct SwarmView {
    pub(crate) service: Arc<SessionService>,
    pub(crate) settings: Arc<ApiSettings>,
}

#[derive(ApiResponse)]
pub(crate) enum SwarmResponse {
    /// The swarms.
    #[oai(status = 200)]
    Fine(Json<Swarms>),
}

#[OpenApi]
impl SwarmView {
    /// Show who runs the blocks
    ///
    /// For every loaded model: the servers that host its transformer blocks, blocks that are missing, and the route that
    /// a reply would take now.
    #[oai(path = "/api/v1/swarm", method = "get", operation_id = "show-swarm", tag = "Tag::Models")]
    async fn show(&self) -> SwarmResponse {
        let mut models = Vec::new();
        for entry in self.service.catalogue().iter() {
            let Entrance { token, file } =
                self.settings.entrances.get(&entry.local.spec().id).cloned().unwrap_or_default();
            let swarm = look(&entry, self.service.limits().default_length).await;
            models.push(ModelSwarm { join: token, file, ..swarm });
        }
        SwarmResponse::Fine(Json(Swarms { models }))
    }
}

async fn look(entry: &ModelEntry, tokens: usize) -> ModelSwarm {
    let spec = entry.local.spec();
    match entry.swarm.map(&spec.id).await {
        Ok(map) => describe(&spec, &map, tokens),
        Err(fault) => describe(&spec, &SwarmMap { fault: Some(fault), ..SwarmMap::default() }, tokens),
    }
}

fn describe(spec: &ModelSpec, map: &SwarmMap, tokens: usize) -> ModelSwarm {
    let route = plan(map, spec.all_blocks(), tokens, |_| false).unwrap_or_default();
    ModelSwarm {
        model: spec.id.to_string(),
        blocks: spec.blocks as u64,
        missing: map.missing(spec.all_blocks()).into_iter().map(|block| block as u64).collect(),
        route: route.into_iter().map(RouteHop::from).collect(),
        servers: map.servers.iter().map(server).collect(),
        fault: map.fault.as_ref().map(ToString::to_string),
        join: None,
        file: None,
    }
}

fn server(info: &ServerInfo) -> SwarmServer {
    SwarmServer {
        peer: info.peer.to_string(),
        start: info.blocks.start() as u64,
        end: info.blocks.end() as u64,
        rps: info.rps,
        rtt_ms: info.rtt.map(|rtt| rtt.as_secs_f64() * 1e3),
        free_tokens: info.free_tokens.map(|tokens| tokens as u64),
        relayed: info.facts.relayed,
        version: info.facts.version.clone(),
        dtype: info.facts.dtype.clone(),
        name: info.facts.name.clone(),
    }
}

#[cfg(test)]
mod tests {
    use poem::test::TestClient;
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        routes,
        stage::{MODEL, Stage},
    };

    async fn shown(entrances: impl IntoIterator<Item = Entrance>) -> Value {
        let stage = Stage::mortal();
        let entrances = entrances.into_iter().map(|entrance| (MODEL.into(), entrance)).collect();
        let settings = ApiSettings { entrances, ..ApiSettings::default() };
        let response = TestClient::new(routes(stage.service.clone(), settings)).get("/api/v1/swarm").send().await;
        let swarms: Value = serde_json::from_str(&response.0.into_body().into_string().await.unwrap()).unwrap();
        swarms["models"][0].clone()
    }

    #[tokio::test]
    async fn how_to_host_blocks_is_told_as_far_as_it_may_be() {
        let swarm = shown([]).await;
        assert_eq!((&swarm["join"], &swarm["file"]), (&Value::Null, &Value::Null));
        assert_eq!(swarm["servers"].as_array().unwrap().len(), 2);
        let open = Entrance { file: Some("m.gguf".to_owned()), token: Some("corolla1-abc".to_owned()) };
        let swarm = shown([open.clone()]).await;
        assert_eq!((&swarm["join"], &swarm["file"]), (&json!("corolla1-abc"), &json!("m.gguf")));
        let swarm = shown([Entrance { token: None, ..open }]).await;
        assert_eq!((&swarm["join"], &swarm["file"]), (&Value::Null, &json!("m.gguf")));
    }
}
