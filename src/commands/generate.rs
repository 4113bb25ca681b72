//! `corolla generate`: one reply on the standard output.

use std::time::Instant;

use clap::builder::NonEmptyStringValueParser;
use corolla_domain::{
    generation::{Sampling, StopRule},
    model::{Message, Role, RouteReport, TokenId},
    session::{Length, ModelEntry, Prompt, ReplyRequest, Usage},
};
use serde::Serialize;

use super::{Compute, ConfigFile, load_default, log, planned_default, print, unless_stopped};
use crate::{
    Stop,
    config::{Overrides, Settings},
    plan::ModelPlan,
};

/// Flags of `generate`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    file: ConfigFile,
    /// Text to continue.
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    prompt: String,
    /// Take the prompt as a user's message in the model's chat format.
    #[arg(long)]
    chat: bool,
    /// Name of the model, as in the configuration.
    #[arg(long, value_name = "ID")]
    model: Option<String>,
    #[command(flatten)]
    compute: Compute,
    /// Tokens to produce at most.
    #[arg(long, value_name = "N", default_value_t = 128)]
    max_new_tokens: usize,
    /// Draw from the softmax at this temperature; without it, or at 0, the most probable token is taken each time.
    #[arg(long, value_name = "T", default_value_t = 0.0, allow_negative_numbers = true)]
    temperature: f32,
    /// Draw from the K most probable tokens.
    #[arg(long, value_name = "K", allow_negative_numbers = true)]
    top_k: Option<usize>,
    /// Draw from the most probable tokens that together reach this share.
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    top_p: Option<f32>,
    /// Draw from tokens at least this fraction as probable as the best.
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    min_p: Option<f32>,
    /// Make tokens that were there already less probable (1 is off).
    #[arg(long, value_name = "X", default_value_t = 1.0, allow_negative_numbers = true)]
    repetition_penalty: f32,
    /// Subtracted from the score of every token generated before.
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    presence_penalty: f32,
    /// Subtracted from a token's score for each time it was generated.
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    frequency_penalty: f32,
    /// Same seed, same tokens.
    #[arg(long, value_name = "S", allow_negative_numbers = true)]
    seed: Option<u64>,
    /// End the reply before this text (may be given several times).
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Go on after the end-of-text token.
    #[arg(long)]
    ignore_eos: bool,
    /// Threads to compute with.
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Print one JSON object with token ids and timings at the end instead of streaming text.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    prompt_ids: Vec<TokenId>,
    ids: Vec<TokenId>,
    text: String,
    timings: Timings,
    /// How the reply travelled, where other machines took part.
    #[serde(skip_serializing_if = "Option::is_none")]
    route: Option<Route>,
}

#[derive(Serialize)]
struct Route {
    hops: Vec<RouteHop>,
    failovers: Vec<RouteFailover>,
}

#[derive(Serialize)]
struct RouteHop {
    hop: String,
    latest_ms: f64,
}

#[derive(Serialize)]
struct RouteFailover {
    position: usize,
    lost: String,
    why: String,
    pause_ms: f64,
    by: Vec<String>,
}

#[derive(Serialize)]
struct Timings {
    load_s: f64,
    prefill_s: f64,
    decode_s: f64,
    decode_tokens_per_s: f64,
}

/// Loads the model and writes the reply, token by token. Ctrl-C ends it.
pub(crate) async fn run(options: Options) -> Result<(), Stop> {
    let overrides = Overrides { default_model: options.model.clone(), ..options.compute.overrides() };
    sampling(&options).check().map_err(Stop::usage)?;
    let (settings, plans) = planned_default(&options.file, &overrides, options.threads).await?;
    log("warn");
    unless_stopped(reply(&options, &settings, &plans)).await
}

async fn reply(options: &Options, settings: &Settings, plans: &[ModelPlan]) -> Result<(), Stop> {
    let begun = Instant::now();
    let service = load_default(settings, plans, !options.json).await?;
    let load_s = begun.elapsed().as_secs_f64();
    let prompt_ids = match service.catalogue().get(&settings.default_model) {
        Some(entry) if options.json => prompt_ids(options, &entry).await?,
        _ => Vec::new(),
    };
    let mut reply = service.reply(request(options)).await.map_err(Stop::usage)?;
    let asked = Instant::now();
    let (mut first, mut last) = (asked, asked);
    let (mut text, mut ids) = (String::new(), Vec::new());
    while let Some(chunk) = reply.next().await.map_err(Stop::failure)? {
        last = Instant::now();
        if ids.is_empty() {
            first = last;
        }
        ids.extend(chunk.tokens);
        if options.json {
            text += &chunk.text;
        } else {
            print(&chunk.text)?;
        }
    }
    if !options.json {
        for it in reply.route().failovers {
            let by: Vec<String> = it.by.iter().map(ToString::to_string).collect();
            let (lost, by, pause) = (it.lost, by.join(", "), it.pause.as_secs_f64());
            tracing::warn!("{lost} was lost and replaced by {by} in {pause:.1} s: {}", it.why);
        }
        return print("\n");
    }
    let timings = timings(load_s, (first - asked).as_secs_f64(), (last - first).as_secs_f64(), reply.usage());
    let route = route(reply.route());
    let report = serde_json::to_string(&Report { prompt_ids, ids, text, timings, route }).map_err(Stop::failure)?;
    print(&(report + "\n"))
}

fn route(report: RouteReport) -> Option<Route> {
    let ms = |time: std::time::Duration| time.as_secs_f64() * 1e3;
    let hops: Vec<RouteHop> =
        report.hops.iter().map(|it| RouteHop { hop: it.hop.to_string(), latest_ms: ms(it.latest) }).collect();
    let failovers = report.failovers.into_iter().map(|it| RouteFailover {
        position: it.position,
        lost: it.lost.to_string(),
        why: it.why,
        pause_ms: ms(it.pause),
        by: it.by.iter().map(ToString::to_string).collect(),
    });
    (!hops.is_empty()).then(|| Route { hops, failovers: failovers.collect() })
}

/// The first token belongs to the prefill, so the decoding speed is that of the others.
fn timings(load_s: f64, prefill_s: f64, decode_s: f64, usage: Usage) -> Timings {
    let others = usage.new_tokens.saturating_sub(1) as f64;
    let decode_tokens_per_s = if decode_s > 0.0 { others / decode_s } else { 0.0 };
    Timings { load_s, prefill_s, decode_s, decode_tokens_per_s }
}

async fn prompt_ids(options: &Options, entry: &ModelEntry) -> Result<Vec<TokenId>, Stop> {
    let tokenizer = &entry.tokenizer;
    let encoded = match prompt(options) {
        Prompt::Chat(chat) => match tokenizer.chat_prompt(&chat) {
            Ok(text) => tokenizer.encode(&text, false).await,
            Err(fault) => Err(fault),
        },
        _ => tokenizer.encode(&options.prompt, true).await,
    };
    encoded.map_err(Stop::usage)
}

fn prompt(options: &Options) -> Prompt {
    if options.chat {
        Prompt::Chat(vec![Message::new(Role::User, options.prompt.as_str())].into())
    } else {
        Prompt::Text(options.prompt.clone())
    }
}

fn request(options: &Options) -> ReplyRequest {
    ReplyRequest {
        model: None,
        session: None,
        owner: None,
        prompt: prompt(options),
        length: Length::NewTokens(options.max_new_tokens),
        sampling: sampling(options),
        grammar: None,
        stop: StopRule {
            sequences: options.stop.clone(),
            endings: None,
            include: false,
            ignore_eos: options.ignore_eos,
            skip_special: options.chat,
        },
    }
}

fn sampling(options: &Options) -> Sampling {
    Sampling {
        temperature: options.temperature,
        top_k: options.top_k,
        top_p: options.top_p,
        min_p: options.min_p,
        repetition_penalty: options.repetition_penalty,
        presence_penalty: options.presence_penalty,
        frequency_penalty: options.frequency_penalty,
        seed: options.seed,
        bias: Vec::new(),
        alternatives: None,
    }
}
