// SPDX-License-Identifier: GPL-2.0

//! The summary as a page of HTML: one file, without scripts and without anything from elsewhere.

use maud::{html, Markup, PreEscaped, DOCTYPE};

use super::conclusion::{some, LIMITS};
use super::phase::{Phase, Weight};
use super::summary::{Finding, Listed, Stage, Summary};
use super::timeline::{seconds, since, Timeline};

const STYLE: &str = include_str!("page.css");

/// What the browser lets the page do: have this very style, and nothing else.
pub(super) const POLICY: &str = "default-src 'none'; style-src 'sha256-tLQzQTq+0ptmXQE7Bb0z/kLqtU4az2OnZuatP6k946M='; base-uri 'none'; form-action 'none'";

/// How many things of a list are on the page.
const SHOWN: usize = 100;

/// The width of the timeline, of its labels, and the height of a row.
const WIDTH: usize = 1000;
const LABELS: usize = 250;
const ROW: usize = 30;

impl Summary {
    /// The page.
    pub fn page(&self) -> String {
        let conclusion = self.conclusion();
        let state = match conclusion.weight {
            Weight::Through => "through",
            _ if self.losses.any() => "doubtful",
            _ => "good",
        };
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta http-equiv="Content-Security-Policy" content=(POLICY);
                    meta name="referrer" content="no-referrer";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    title { "uvctl report: " (conclusion.text) }
                    style { (PreEscaped(STYLE)) }
                }
                body {
                    header class=(state) {
                        h1 { (conclusion.text) "." }
                        @for sentence in self.losses.sentences() { p.doubt { (sentence) } }
                        (self.about())
                    }
                    section {
                        h2 { "When" }
                        (timeline(&self.timeline))
                        div.key {
                            span { i.through {} "done, and to be looked at" }
                            span { i.attempt {} "tried and refused" }
                            span { i.ordinary {} "what programs do" }
                        }
                    }
                    section {
                        h2 { "The attack, stage by stage" }
                        ol.chain {
                            @for (number, stage) in self.stages.iter().enumerate() {
                                (chain(number + 1, stage, self.first))
                            }
                        }
                    }
                    section {
                        h2 { "What it did that it may" }
                        (did("Programs", &self.programs, self.first))
                        (did("Files written and changed", &self.changed, self.first))
                        (did("Connections", &self.reached, self.first))
                        p.soft {
                            (some(self.processes, "process", "processes")) " made, "
                            (some(self.looked, "file", "files")) " opened to be read or looked at."
                        }
                    }
                    section {
                        h2 { "What this report cannot know" }
                        ul { @for sentence in LIMITS { li { (sentence) } } }
                    }
                }
            }
        };
        page.into_string()
    }

    /// Which task it was, and when.
    fn about(&self) -> Markup {
        html! {
            @for task in self.tasks.all.iter().take(SHOWN) {
                p { code { (task.command) } span.soft { " under profile " } code { (task.profile) } }
            }
            (more(&self.tasks, "tasks"))
            dl.facts {
                div { dt { "began" } dd { (self.begun()) } }
                div { dt { "took" } dd { (seconds(self.last.saturating_sub(self.first))) } }
                div { dt { "events" } dd { (self.events) } }
                div { dt { "processes" } dd { (self.processes.saturating_add(1)) } }
                @if let Some(end) = &self.end { div { dt { "end" } dd { (end) } } }
            }
        }
    }
}

/// A stage.
fn chain(number: usize, stage: &Stage, begin: u64) -> Markup {
    let class = match (stage.through.all.is_empty(), stage.attempts.all.is_empty()) {
        (false, _) => "through",
        (true, false) => "attempt",
        (true, true) => "quiet",
    };
    html! {
        li class=(class) {
            span.number { (number) }
            h3 {
                (stage.phase.title())
                @if !stage.through.all.is_empty() {
                    span class="badge through" { (stage.through.all.len()) " to look at" }
                }
                @if !stage.attempts.all.is_empty() {
                    span class="badge attempt" { (stage.attempts.all.len()) " refused" }
                }
                span.soft {
                    @match stage.first {
                        Some(first) => { "from " (since(first, begin)) },
                        None if stage.allowed == 0 && stage.refused == 0 => { "nothing" },
                        None => { "nothing unusual" },
                    }
                }
            }
            @if class != "quiet" {
                (table(html! {
                    @for found in stage.through.all.iter().take(SHOWN) { (row("through", found, begin)) }
                    @for found in stage.attempts.all.iter().take(SHOWN) { (row("attempt", found, begin)) }
                }))
            }
            (more(&stage.through, "to look at"))
            (more(&stage.attempts, "refused"))
            @if !stage.others.all.is_empty() {
                details {
                    summary { (others(&stage.others)) }
                    (table(html! {
                        @for found in stage.others.all.iter().take(SHOWN) { (row("other", found, begin)) }
                    }))
                    (more(&stage.others, "such"))
                }
            }
        }
    }
}

/// A table of findings.
fn table(rows: Markup) -> Markup {
    html! {
        table.attack {
            thead { tr { th { "what" } th { "became of it" } th { "by" } th { "rule" } th { "first" } th { "times" } } }
            tbody { (rows) }
        }
    }
}

/// A line about what programs are refused as well.
fn others(others: &Listed<Finding>) -> String {
    let count = u64::try_from(others.all.len()).unwrap_or(u64::MAX);
    let and_more = match others.more {
        0 => "",
        _ => " and more",
    };
    let things = some(count, "other thing", "other things");
    format!("{things}{and_more} of which ordinary programs have many")
}

/// A finding.
fn row(class: &str, found: &Finding, begin: u64) -> Markup {
    html! {
        tr class=(class) {
            td.what { (found.what) }
            td { (found.outcome()) }
            td { (found.wall.map_or("", |wall| wall.title())) }
            td { (found.rule.as_deref().unwrap_or_default()) }
            td.at { (since(found.first, begin)) }
            td { @if found.times != 1 { "×" (found.times) } }
        }
    }
}

/// A list of what was done.
fn did(title: &str, list: &Listed<Finding>, begin: u64) -> Markup {
    html! {
        details open[list.all.len() <= 20] {
            summary { (title) ": " (list.all.len()) @if list.more > 0 { " and more" } }
            table.done { tbody {
                @for found in list.all.iter().take(SHOWN) {
                    tr {
                        td.what { (found.what) }
                        td { (found.rule.as_deref().unwrap_or_default()) }
                        td.at { (since(found.first, begin)) }
                        td { @if found.times != 1 { "×" (found.times) } }
                    }
                }
            } }
            (more(list, "such"))
        }
    }
}

/// How much of a list is not on the page.
fn more<T>(list: &Listed<T>, of_what: &str) -> Markup {
    let hidden = u64::try_from(list.all.len().saturating_sub(SHOWN)).unwrap_or(u64::MAX);
    let more = hidden.saturating_add(list.more);
    html! { @if more > 0 { p.soft { "and " (more) " more " (of_what) } } }
}

/// Rows of dots.
fn timeline(timeline: &Timeline) -> Markup {
    let bottom = ROW * Phase::ALL.len();
    let x = |step: usize| LABELS + 10 + step * (WIDTH - LABELS - 20) / timeline.steps();
    let steps = u64::try_from(timeline.steps()).unwrap_or(u64::MAX);
    let all = timeline.step().saturating_mul(steps);
    html! {
        svg viewBox={ "0 0 " (WIDTH) " " (bottom + 24) } role="img" aria-label="Events of each stage by time" {
            @for quarter in 0..=4u64 {
                @let at = x(timeline.steps() * usize::try_from(quarter).unwrap_or(0) / 4);
                line x1=(at) x2=(at) y1="0" y2=(bottom) {}
                @let anchor = if quarter == 4 { "end" } else { "middle" };
                text x=(at) y=(bottom + 18) text-anchor=(anchor) { (seconds(all / 4 * quarter)) }
            }
            @for phase in Phase::ALL {
                @let y = ROW * (phase as usize) + ROW / 2;
                @let busy = timeline.of(phase).next().is_some();
                text.busy[busy] x="0" y=(y + 4) { (phase.title()) }
                line x1=(LABELS) x2=(WIDTH) y1=(y) y2=(y) {}
                // What matters most is drawn last, over the rest.
                @for (weight, class) in ["ordinary", "attempt", "through"].into_iter().enumerate() {
                    @for (step, counts) in timeline.of(phase).filter(|(_, counts)| counts[weight] > 0) {
                        circle class=(class) cx=(x(step)) cy=(y) r=(radius(counts[weight], weight)) {
                            title { (seconds(timeline.step().saturating_mul(step as u64))) ": " (counts[weight]) }
                        }
                    }
                }
            }
        }
    }
}

/// How large a dot for so many events is.
fn radius(count: u64, weight: usize) -> u32 {
    let least = if weight == Weight::Ordinary as usize {
        2
    } else {
        5
    };
    least + count.checked_ilog2().unwrap_or(0).min(10) / 2
}
