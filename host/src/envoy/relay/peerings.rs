//! The peers that the intentions of our service name: of each its name, its state, its roots
//! and the partition that it exports from.
//!
//! The answer depends on two things of the agent, peerings and intentions. Its index is the
//! higher one of theirs (both count Consul's log), and whoever waits hears of either.

use std::collections::BTreeSet;

use http::{HeaderName, HeaderValue};
use portcullis_core::agent::{After, HttpRequest, Query, ReplyError, matches, peerings};

use super::Relay;
use crate::agent_client::{AgentError, AgentReply};

const INDEX: HeaderName = HeaderName::from_static("x-consul-index");

/// What ended the wait, or that nothing has to be waited for.
enum Waited {
    Over,
    /// The agent does not tell peerings.
    Refused(AgentReply),
}

impl Relay {
    /// Answers the question, as the agent would if there were no other peerings. What it
    /// refuses is refused in its words.
    ///
    /// Fails when the agent cannot be asked, or its answer cannot be read.
    pub(super) async fn peerings(&self, query: &Query) -> Result<AgentReply, String> {
        let said = |error: AgentError| error.to_string();
        let fresh = Query {
            after: After::Nothing,
            datacenter: None,
            ..query.clone()
        };
        let waiting = Query {
            after: query.after.clone(),
            ..fresh.clone()
        };
        let mut intentions = self.ask(&self.matches(&fresh)?).await.map_err(said)?;
        if intentions.status != 200 {
            return Ok(intentions);
        }
        let mut named = self.named_by(&intentions)?;
        if let After::Index(seen) = &query.after
            && index(&intentions) <= *seen
        {
            match self.wait(&waiting, !named.is_empty()).await? {
                Waited::Over => {}
                Waited::Refused(reply) => return Ok(reply),
            }
            intentions = self.ask(&self.matches(&fresh)?).await.map_err(said)?;
            if intentions.status != 200 {
                return Ok(intentions);
            }
            named = self.named_by(&intentions)?;
        }
        if named.is_empty() {
            intentions.body = "[]".into();
            return Ok(intentions);
        }
        let mut reply = self.ask(&peerings::request(&fresh)).await.map_err(said)?;
        if reply.status == 200 {
            let unreadable = |error: ReplyError| error.to_string();
            let pruned = peerings::pruned(&reply.as_core(), Some(&named)).map_err(unreadable)?;
            reply.body = pruned.into();
            let newest = index(&reply).max(index(&intentions));
            reply.headers.insert(INDEX, HeaderValue::from(newest));
        }
        Ok(reply)
    }

    /// Waits until the agent has something new about intentions or, where somebody is named,
    /// about peerings, or the question's time is over.
    async fn wait(&self, query: &Query, with_peerings: bool) -> Result<Waited, String> {
        let matches = self.matches(query)?;
        let request = peerings::request(query);
        let reply = tokio::select! {
            // What is refused is found out when it is asked again.
            reply = self.ask(&matches) => return reply.map(|_| Waited::Over).map_err(|error| error.to_string()),
            reply = self.ask(&request), if with_peerings => reply.map_err(|error| error.to_string())?,
        };
        Ok(match reply.status {
            200 => Waited::Over,
            _ => Waited::Refused(reply),
        })
    }

    async fn ask(&self, request: &HttpRequest) -> Result<AgentReply, AgentError> {
        self.agent.execute(request).await
    }

    fn matches(&self, query: &Query) -> Result<HttpRequest, String> {
        matches::request(&[&self.service], query).map_err(|error| error.to_string())
    }

    /// The peers that the intentions in a reply name.
    fn named_by(&self, reply: &AgentReply) -> Result<BTreeSet<String>, String> {
        let reply = reply.as_core();
        let decoded =
            matches::decode(&reply, &[&self.service]).map_err(|error| error.to_string())?;
        let lists = decoded.lists.into_iter().map(|(_, list)| list);
        lists
            .map(|list| list.map(|list| peerings::named_by(list.json)))
            .try_fold(BTreeSet::new(), |mut all, named| {
                all.extend(named.map_err(|error| error.to_string())?);
                Ok(all)
            })
    }
}

fn index(reply: &AgentReply) -> u64 {
    reply.as_core().headers.index.unwrap_or_default()
}
