//! How far a job is, from what the store holds.

use std::collections::HashSet;

use futures_util::{StreamExt, TryStreamExt, stream};
use serde::Serialize;

use super::record::{begun_name, refused_prefix};
use super::{Answer, Jobs, PartAnswer, Record, Shelf};
use crate::error::ServeError;

/// Where a job stands, in the words of OpenAI's fine-tuning jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// No worker has begun.
    Queued,
    /// A worker has begun.
    Running,
    /// Every input has its vector.
    Succeeded,
    /// All is done; some inputs were refused.
    Failed,
    /// All is done; some parts were given up and are among the dead letters.
    Dead,
}

impl Status {
    /// Whether nothing changes any more.
    pub fn ended(self) -> bool {
        matches!(self, Status::Succeeded | Status::Failed | Status::Dead)
    }
}

/// How far a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Where it stands.
    pub status: Status,
    /// Inputs that have a vector.
    pub completed: u64,
    /// Inputs that have none and will get none.
    pub failed: u64,
    /// Parts that are done.
    pub parts: u64,
    /// Parts of these that were given up.
    pub dead: u64,
    /// When it ended, in seconds since 1970.
    pub finished: Option<u64>,
}

impl Progress {
    /// Of a job that was accepted a moment ago.
    pub const ACCEPTED: Progress =
        Progress { status: Status::Queued, completed: 0, failed: 0, parts: 0, dead: 0, finished: None };
}

/// Results that are read at once.
const AT_ONCE: usize = 32;

impl Jobs {
    /// How far a job is.
    ///
    /// # Errors
    /// The store cannot be reached.
    pub async fn progress(&self, record: &Record) -> Result<Progress, ServeError> {
        if let Some(progress) = self.ended.get(&record.run).await {
            return Ok(progress);
        }
        let part = |name: String| name.parse::<usize>().ok().filter(|part| *part < record.parts.len());
        // A worker says that inputs of a part are refused before it writes the part's answer, so the look for it comes after.
        let done = self.store.list(Shelf::Results, &record.run).await?;
        let done: HashSet<usize> = done.into_iter().filter_map(part).collect();
        let refused = self.store.list(Shelf::Jobs, &refused_prefix(&record.run)).await?;
        let refused = refused.into_iter().filter_map(part).filter(|part| done.contains(part));
        let counts = stream::iter(refused).map(|part| self.refused(record, part)).buffer_unordered(AT_ONCE);
        let counts: Vec<(u64, bool)> = counts.try_collect().await?;
        let failed: u64 = counts.iter().map(|(inputs, _)| inputs).sum();
        let dead = counts.iter().filter(|(_, dead)| *dead).count() as u64;
        let inputs: u64 = done.iter().map(|&part| u64::from(record.parts[part])).sum();
        let status = match (done.len(), dead, failed) {
            (parts, ..) if parts < record.parts.len() => self.begun(record, parts).await?,
            (_, 0, 0) => Status::Succeeded,
            (_, 0, _) => Status::Failed,
            _ => Status::Dead,
        };
        let finished = match status.ended() {
            true => self.store.newest(Shelf::Results, &record.run).await?,
            false => None,
        };
        let parts = done.len() as u64;
        let progress = Progress { status, completed: inputs - failed, failed, parts, dead, finished };
        if status.ended() {
            self.ended.insert(record.run.clone(), progress).await;
        }
        Ok(progress)
    }

    async fn begun(&self, record: &Record, parts: usize) -> Result<Status, ServeError> {
        let begun = parts > 0 || self.store.get(Shelf::Jobs, &begun_name(&record.run)).await?.is_some();
        Ok(if begun { Status::Running } else { Status::Queued })
    }

    /// Inputs of a part that have no vector, and whether it was given up.
    async fn refused(&self, record: &Record, part: usize) -> Result<(u64, bool), ServeError> {
        let answer = self.part_answer(record, part).await?;
        let dead = answer.dead.is_some();
        let answers = answer.into_answers(record.parts[part] as usize);
        let refused = answers.iter().filter(|answer| matches!(answer, Answer::Refused(_))).count();
        Ok((refused as u64, dead))
    }

    /// What became of a part that is done.
    ///
    /// # Errors
    /// It is not there, or the store cannot be reached.
    pub async fn part_answer(&self, record: &Record, part: usize) -> Result<PartAnswer, ServeError> {
        let name = record.address(part).to_string();
        let bytes = self.store.get(Shelf::Results, &name).await?;
        let bytes = bytes.ok_or_else(|| {
            let what = format!("the result of part {part} is not there any more; submit the job again");
            ServeError::internal("result_lost", what)
        })?;
        PartAnswer::read(&bytes)
    }
}
