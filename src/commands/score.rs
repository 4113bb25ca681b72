//! `corolla score`: how probable a model finds a text, token by token.

use clap::builder::NonEmptyStringValueParser;
use corolla_domain::{model::TokenId, session::ScoredToken};
use serde::Serialize;

use super::{Compute, ConfigFile, load_default, log, planned_default, print, unless_stopped};
use crate::{Stop, config::Overrides};

/// Flags of `score`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    file: ConfigFile,
    /// Text to score.
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    prompt: String,
    /// Name of the model, as in the configuration.
    #[arg(long, value_name = "ID")]
    model: Option<String>,
    #[command(flatten)]
    compute: Compute,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    tokens: Vec<Line>,
    /// Sum of the logarithms.
    logprob: f64,
    /// The exponential of the negative mean logarithm; `None` where the text is one token.
    perplexity: Option<f64>,
}

#[derive(Serialize)]
struct Line {
    id: TokenId,
    text: String,
    logprob: Option<f64>,
}

/// Scores a text by one forward pass. Ctrl-C ends it.
pub(crate) async fn run(options: Options) -> Result<(), Stop> {
    let overrides = Overrides { default_model: options.model.clone(), ..options.compute.overrides() };
    let (settings, plans) = planned_default(&options.file, &overrides, None).await?;
    log("warn");
    let scoring = async {
        let service = load_default(&settings, &plans, !options.json).await?;
        service.score(None, &options.prompt).await.map_err(Stop::failure)
    };
    let report = report(unless_stopped(scoring).await?);
    if options.json {
        return print(&(serde_json::to_string(&report).map_err(Stop::failure)? + "\n"));
    }
    print(&table(&report))
}

fn report(scored: Vec<ScoredToken>) -> Report {
    let known: Vec<f64> = scored.iter().filter_map(|token| token.logprob).collect();
    let logprob: f64 = known.iter().sum();
    let perplexity = (!known.is_empty()).then(|| f64::exp(-logprob / known.len() as f64));
    let line = |it: ScoredToken| Line { id: it.id, text: it.text, logprob: it.logprob };
    Report { tokens: scored.into_iter().map(line).collect(), logprob, perplexity }
}

fn table(report: &Report) -> String {
    let mut text = format!("{:>10} {:>8}  token\n", "logprob", "id");
    for Line { id, text: token, logprob } in &report.tokens {
        let logprob = logprob.map_or("-".to_owned(), |logprob| format!("{logprob:.4}"));
        text += &format!("{logprob:>10} {id:>8}  {token:?}\n");
    }
    let perplexity = report.perplexity.map_or("-".to_owned(), |it| format!("{it:.2}"));
    text + &format!("{:>10.4} in all, perplexity {perplexity}\n", report.logprob)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn perplexity_is_the_mean_over_the_tokens_that_follow_something() {
        let token = |id, logprob| ScoredToken { id: TokenId(id), text: format!("t{id}"), logprob, best: Vec::new() };
        let two = report(vec![token(1, None), token(2, Some(-1.0)), token(3, Some(-3.0))]);
        assert_eq!((two.logprob, two.perplexity), (-4.0, Some(2f64.exp())));
        assert!(table(&two).contains("   -3.0000        3  \"t3\"\n"), "{}", table(&two));
        assert!(table(&report(vec![token(1, None)])).ends_with("perplexity -\n"));
    }
}
