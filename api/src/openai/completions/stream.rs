//! Texts as server-sent events: one piece a token.

use poem::web::sse::Event;
use poem_openapi::types::ToJSON;

use super::{
    shape::{Choice, Completion},
    work::Work,
};
use crate::openai::{
    shape::Stamp,
    stream::{Source, done, failure},
};

pub(super) struct Events {
    work: Work,
    stamp: Stamp,
    include_usage: bool,
    over: bool,
}

impl Events {
    pub(super) fn new(work: Work, include_usage: bool) -> Self {
        let stamp = Stamp::new("cmpl", work.model());
        Self { work, stamp, include_usage, over: false }
    }

    fn event(&self, completion: Completion) -> Event {
        let Stamp { id, created, model } = self.stamp.clone();
        let object = "text_completion".to_owned();
        Event::message(Completion { id, object, created, model, ..completion }.to_json_string())
    }
}

impl Source for Events {
    async fn more(&mut self) -> Vec<Event> {
        if self.over {
            return Vec::new();
        }
        match self.work.next().await {
            Ok(Some(piece)) => {
                let mut choice = Choice { index: piece.index, ..Choice::default() };
                choice.add(piece);
                vec![self.event(Completion { choices: vec![choice], ..Completion::default() })]
            }
            Ok(None) => {
                self.over = true;
                let last = self.include_usage.then(|| {
                    let (usage, route) = (Some(self.work.usage()), self.work.route());
                    self.event(Completion { usage, route, ..Completion::default() })
                });
                last.into_iter().chain([done()]).collect()
            }
            Err(fault) => {
                self.over = true;
                failure(&fault).into()
            }
        }
    }
}
