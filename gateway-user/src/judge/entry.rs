//! The record of one operation while it happens. Whatever becomes of the operation, exactly one closing event is
//! written: when nobody gives an ending, the entry writes one as it is dropped. Refuses to write after its end.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::Bench;
use super::block::Known;
use crate::limits::{BODY_STRETCH_BYTES, RECORDED_BODY_BYTES_MAX};
use crate::mask::{Hits, MaskError, Packing, Plan, Unpacker};
use crate::operation::{EntryId, SessionId};
use crate::record::entry::{
    BodyEnd, BodyStretch, CredentialClaimed, Decided, Demanded, Ending, EntryClosed, Event, Gap, Head,
    Intent, Micros, Responded, Side,
};
use crate::record::{Durable, RecordError, Recorder};
use crate::telemetry::Metrics;

/// Microseconds since the Unix epoch, now.
#[must_use]
pub fn now() -> Micros {
    jiff::Timestamp::now().as_microsecond()
}

/// One operation's live record.
pub struct Entry {
    id: EntryId,
    session: SessionId,
    recorder: Recorder,
    draining: Draining,
    known: Arc<Known>,
    metrics: Metrics,
    progress: Mutex<Progress>,
}

/// Set once, when the gate stops; tells a client that left from a gate that did.
#[derive(Debug, Clone, Default)]
pub struct Draining(CancellationToken);

impl Draining {
    /// The gate stops.
    pub fn begin(&self) {
        self.0.cancel();
    }

    /// Whether it does.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Waits until it does.
    pub async fn begun(&self) {
        self.0.cancelled().await;
    }
}

#[derive(Default)]
struct Progress {
    /// The intent was handed to the journal, so a close must follow.
    begun: bool,
    closed: bool,
    target: Option<String>,
    status: Option<u16>,
    request: BodyEnd,
    response: BodyEnd,
    masks: Vec<(String, u64)>,
    rewrites: Vec<String>,
    /// On an observed target, the masks that would have applied: what they find is counted, and hidden from nobody.
    observed: Vec<String>,
    /// What happened and goes to the record with what happens next.
    kept: Vec<Event>,
    /// Stretches of bodies on their way to disk.
    stretches: Vec<Durable>,
    /// Why one of them never got there.
    hole: Option<RecordError>,
}

impl Entry {
    /// A new entry; nothing is written before its intent is.
    #[must_use]
    pub(super) fn open(session: SessionId, bench: &Bench, known: &Arc<Known>) -> Arc<Self> {
        let (recorder, draining, metrics) =
            (bench.recorder.clone(), bench.draining.clone(), bench.metrics.clone());
        Arc::new(Self {
            id: EntryId::now(),
            session,
            recorder,
            draining,
            known: Arc::clone(known),
            metrics,
            progress: Mutex::default(),
        })
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> EntryId {
        self.id
    }

    /// The session it belongs to.
    #[must_use]
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// Writes what is about to happen, and with which credential. `soon`: nobody waits for it alone.
    ///
    /// # Errors
    /// When the record cannot take it; the operation must then be refused.
    pub fn intend(
        &self,
        intent: Intent,
        claim: Option<CredentialClaimed>,
        soon: bool,
    ) -> Result<Durable, RecordError> {
        let target = intent.target.clone();
        let intent = Event::Intent(Box::new(intent));
        let events: Vec<Event> =
            [Some(intent), claim.map(Event::CredentialClaimed)].into_iter().flatten().collect();
        let durable =
            if soon { self.recorder.append_soon(events) } else { self.recorder.append_all(events) }?;
        let mut progress = self.progress();
        (progress.begun, progress.target) = (true, target);
        Ok(durable)
    }

    /// Writes what a hold waits for.
    ///
    /// # Errors
    /// When the record cannot take it.
    pub fn demand(&self, demanded: Demanded) -> Result<Durable, RecordError> {
        self.recorder.append(Event::Demanded(demanded))
    }

    /// Writes the end of a hold, and with which credential the operation goes on.
    ///
    /// # Errors
    /// When the record cannot take it.
    pub fn decide(&self, decided: Decided, claim: Option<CredentialClaimed>) -> Result<Durable, RecordError> {
        let decided = Event::Decided(decided);
        self.recorder
            .append_all([Some(decided), claim.map(Event::CredentialClaimed)].into_iter().flatten().collect())
    }

    /// Keeps the response head the client is about to get; it is written with what comes next.
    pub fn responded(&self, status: u16, head: Head) {
        let mut progress = self.progress();
        progress.status = Some(status);
        progress.kept.push(Event::Responded(Responded { entry: self.id, at: now(), status, head }));
    }

    /// Writes what was kept, where the rest of the answer may take a while.
    ///
    /// # Errors
    /// When the record cannot take it.
    pub fn flush(&self) -> Result<(), RecordError> {
        // Under the lock, so that no end gets in between.
        let mut progress = self.progress();
        let kept = std::mem::take(&mut progress.kept);
        if kept.is_empty() { Ok(()) } else { self.recorder.append_soon(kept).map(drop) }
    }

    /// Notes the status of an answer that the gate itself gives.
    pub fn answered(&self, status: u16) {
        self.progress().status = Some(status);
    }

    /// Adds hits of masks on what this side sent.
    pub fn masked(&self, side: Side, hits: Hits) {
        let mut progress = self.progress();
        for (name, count) in &hits.detectors {
            self.metrics.found(name, progress.target.as_deref().unwrap_or_default(), *count);
        }
        for (name, count) in hits.masks {
            match side {
                Side::Request => progress.request.masked += count,
                Side::Response => progress.response.masked += count,
            }
            self.metrics.masked(&name, progress.target.as_deref().unwrap_or_default(), count);
            match progress.masks.iter_mut().find(|(known, _)| *known == name) {
                Some((_, sum)) => *sum += count,
                None => progress.masks.push((name, count)),
            }
        }
    }

    /// Notes rewrites that changed something, each once.
    pub fn rewrote(&self, rewrites: Vec<String>) {
        if rewrites.is_empty() {
            return;
        }
        let mut progress = self.progress();
        for name in rewrites {
            if !progress.rewrites.contains(&name) {
                progress.rewrites.push(name);
            }
        }
    }

    /// Has the finds of these masks counted, of which none is hidden from the client.
    pub fn observe(&self, masks: Vec<String>) {
        self.progress().observed = masks;
    }

    /// Adds what masks would have hidden of an answer.
    fn found(&self, hits: Vec<(String, u64)>) {
        let mut progress = self.progress();
        for (name, count) in hits {
            if !progress.observed.contains(&name) {
                continue;
            }
            match progress.masks.iter_mut().find(|(known, _)| *known == name) {
                Some((_, sum)) => *sum += count,
                None => progress.masks.push((name, count)),
            }
        }
    }

    /// Counts a failure of the target; `fault` is one word.
    pub fn upstream_failed(&self, fault: &'static str) {
        self.metrics.upstream_failed(self.progress().target.as_deref().unwrap_or_default(), fault);
    }

    /// Writes the end. The first end given counts; later ones are not written.
    ///
    /// # Errors
    /// When the record cannot take it.
    pub fn close(&self, ending: Ending) -> Result<Option<Durable>, RecordError> {
        let mut progress = self.progress();
        let Some(events) = self.closing(&mut progress, ending) else { return Ok(None) };
        self.recorder.append_all(events).map(Some)
    }

    /// Whether every stretch of its bodies that was written became durable, as far as that is known. Certain once its
    /// end is durable.
    ///
    /// # Errors
    /// Why one did not: the record has a hole there.
    pub fn is_whole(&self) -> Result<(), RecordError> {
        let mut progress = self.progress();
        let Progress { stretches, hole, .. } = &mut *progress;
        stretches.retain_mut(|stretch| match stretch.now() {
            None => true,
            Some(Ok(())) => false,
            Some(Err(error)) => {
                *hole = Some(error);
                false
            }
        });
        hole.clone().map_or(Ok(()), Err)
    }

    fn closing(&self, progress: &mut Progress, ending: Ending) -> Option<Vec<Event>> {
        if !progress.begun || std::mem::replace(&mut progress.closed, true) {
            return None;
        }
        let mut events = std::mem::take(&mut progress.kept);
        events.push(Event::EntryClosed(EntryClosed {
            entry: self.id,
            at: now(),
            status: progress.status,
            request: progress.request,
            response: progress.response,
            masks: std::mem::take(&mut progress.masks),
            ending,
            rewrites: std::mem::take(&mut progress.rewrites),
        }));
        Some(events)
    }

    fn progress(&self) -> std::sync::MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let ending = if std::thread::panicking() {
            Ending::ByGate("a fault in the gate ended it".into())
        } else if let Some(block) = self.known.cut() {
            Ending::ByGate(block.to_owned())
        } else if self.draining.is_on() {
            Ending::ByGate("the gate was stopped before the answer ended".into())
        } else {
            Ending::ByClient("the client left before the answer ended".into())
        };
        let mut progress = self.progress();
        if let Some(events) = self.closing(&mut progress, ending) {
            // The record keeps an end until it can write it, also where it gives an error now.
            drop(self.recorder.append_soon(events));
        }
    }
}

/// Copies one body into the record as it streams: masked by every detector, in stretches, up to a bound.
pub struct Capture {
    entry: Arc<Entry>,
    side: Side,
    /// `None` once nothing more can be kept safely.
    masker: Option<Unpacker>,
    pending: Vec<u8>,
    end: BodyEnd,
}

impl Capture {
    /// Captures one body, packed like this when it comes here; `plan` is what the record may not hold of it.
    #[must_use]
    pub fn new(entry: Arc<Entry>, side: Side, plan: &Plan, packing: &Packing) -> Self {
        let end = BodyEnd { decoded: packing.codings().unwrap_or_default(), ..BodyEnd::default() };
        Self { entry, side, masker: Some(plan.unpack(packing)), pending: Vec::new(), end }
    }

    /// Says which codings were undone before the body came here.
    #[must_use]
    pub fn unpacked_from(mut self, packing: &Packing) -> Self {
        self.end.decoded = packing.codings().unwrap_or_default();
        self
    }

    /// The entry whose body it is.
    #[must_use]
    pub fn entry(&self) -> &Arc<Entry> {
        &self.entry
    }

    /// Takes the next bytes of the body.
    ///
    /// # Errors
    /// When the record cannot take a stretch; the body must then not go on.
    pub fn saw(&mut self, bytes: &Bytes) -> Result<(), RecordError> {
        self.end.bytes += bytes.len() as u64;
        if let Some(masker) = &mut self.masker {
            masker.give(bytes.clone());
        }
        loop {
            let more = match self.masker.as_mut().map(|masker| masker.take(&mut self.pending)) {
                Some(Ok(more)) => more,
                Some(Err(error)) => {
                    self.stop_keeping(&error);
                    false
                }
                None => false,
            };
            self.flush(BODY_STRETCH_BYTES, false)?;
            if !more {
                return Ok(());
            }
        }
    }

    /// The body ended: writes what is left of it.
    ///
    /// # Errors
    /// When the record cannot take it.
    pub fn finish(&mut self) -> Result<(), RecordError> {
        match self.masker.take().map(|mut masker| masker.finish(&mut self.pending)) {
            None => {}
            Some(Ok(hits)) if self.side == Side::Response => self.entry.found(hits.masks),
            Some(Ok(_)) => {}
            Some(Err(error)) => self.stop_keeping(&error),
        }
        self.flush(1, true)
    }

    /// What follows cannot be kept without risk; it is counted, not kept.
    fn stop_keeping(&mut self, why: &MaskError) {
        self.masker = None;
        self.end.truncated_at = Some(self.end.recorded + self.pending.len() as u64);
        self.end.gap = Some(match why {
            MaskError::Coding(_) | MaskError::Decoding(_) => Gap::Coding,
            MaskError::Encoding(_) => Gap::Charset,
            MaskError::TooLarge { .. } => Gap::Size,
            _ => Gap::Content,
        });
    }

    fn flush(&mut self, at_least: usize, last: bool) -> Result<(), RecordError> {
        let room = RECORDED_BODY_BYTES_MAX - self.end.recorded;
        if self.pending.len() as u64 > room {
            self.pending.truncate(usize::try_from(room).unwrap_or(usize::MAX));
            self.masker = None;
            self.end.truncated_at = Some(RECORDED_BODY_BYTES_MAX);
            self.end.gap = Some(Gap::Size);
        }
        let full = self.pending.len() >= at_least || self.masker.is_none();
        let bytes = if full { std::mem::take(&mut self.pending) } else { Vec::new() };
        if self.entry.progress().closed {
            // What nobody will find in the record does not go on to the target.
            return match self.side {
                Side::Request => Err(RecordError::Closed),
                Side::Response => Ok(()),
            };
        }
        self.end.recorded += bytes.len() as u64;
        self.publish();
        if bytes.is_empty() {
            return Ok(());
        }
        let (entry, side) = (self.entry.id, self.side);
        let stretch = |bytes| Event::Body(BodyStretch { entry, side, bytes });
        if last && bytes.len() <= BODY_STRETCH_BYTES && side == Side::Response {
            // The end of an answer: that of its entry follows.
            self.entry.progress().kept.push(stretch(bytes));
            return Ok(());
        }
        if side == Side::Response {
            self.entry.flush()?;
        }
        for bytes in bytes.chunks(BODY_STRETCH_BYTES) {
            let durable = self.entry.recorder.append_soon(vec![stretch(bytes.to_vec())])?;
            self.entry.progress().stretches.push(durable);
        }
        self.entry.is_whole()
    }

    fn publish(&self) {
        let mut progress = self.entry.progress();
        match self.side {
            Side::Request => progress.request = BodyEnd { masked: progress.request.masked, ..self.end },
            Side::Response => progress.response = BodyEnd { masked: progress.response.masked, ..self.end },
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        // What the masker still holds back is not certain to be clean; what it let go is.
        self.masker = None;
        drop(self.flush(1, true));
    }
}
