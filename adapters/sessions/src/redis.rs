//! Sessions in Redis: shared by all servers that use the same prefix, and there after a restart.
//!
//! A session is a hash `{prefix}:session:{id}` with the fields `version`, `expires` and `record` (JSON); the sorted set
//! `{prefix}:expiry` holds all ids by time of expiry. Whatever checks and then changes is one Lua script, which Redis
//! runs without letting anybody in between.

use std::time::Duration;

use ::redis::{
    Client, ErrorKind, IntoConnectionInfo, RedisError, Script, ServerErrorKind,
    aio::{ConnectionManager, ConnectionManagerConfig},
};
use async_trait::async_trait;
use corolla_domain::ports::{FaultKind, PortError, SessionRecord, SessionStore, Timestamp};
use uuid::Uuid;

/// How long a record outlives its session, should nobody delete it: Redis then forgets it by itself.
const GRACE: Duration = Duration::from_secs(7 * 24 * 3600);
/// The longest lifetime given to a key, ten years: Redis refuses times that overflow its clock.
const LONGEST: u64 = 10 * 365 * 24 * 3600 * 1000;
/// Times in a sorted set are floating-point numbers, exact up to here (the year 287396).
const LAST_SCORE: u64 = 1 << 53;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// KEYS: session, expiry. ARGV: id, version, expires, record, score, now as a score, `max_live`, lifetime in ms.
const CREATE: &str = "
if redis.call('EXISTS', KEYS[1]) == 1 then return 'exists' end
if redis.call('ZCOUNT', KEYS[2], '(' .. ARGV[6], '+inf') >= tonumber(ARGV[7]) then return 'full' end
redis.call('HSET', KEYS[1], 'version', ARGV[2], 'expires', ARGV[3], 'record', ARGV[4])
redis.call('PEXPIRE', KEYS[1], ARGV[8])
redis.call('ZADD', KEYS[2], ARGV[5], ARGV[1])
if redis.call('PTTL', KEYS[2]) < tonumber(ARGV[8]) then redis.call('PEXPIRE', KEYS[2], ARGV[8]) end
return 'done'";

/// KEYS: session, expiry. ARGV: id, old version, new version, expires, record, score, grace and longest lifetime in ms.
/// The lifetime moves by as much as the time of expiry does, so that no clock is needed.
const SAVE: &str = "
local stored = redis.call('HMGET', KEYS[1], 'version', 'expires')
if not stored[1] then return 'gone' end
if stored[1] ~= ARGV[2] then return 'stale' end
local life = redis.call('PTTL', KEYS[1]) + tonumber(ARGV[4]) - tonumber(stored[2])
life = string.format('%.0f', math.min(math.max(life, tonumber(ARGV[7])), tonumber(ARGV[8])))
redis.call('HSET', KEYS[1], 'version', ARGV[3], 'expires', ARGV[4], 'record', ARGV[5])
redis.call('PEXPIRE', KEYS[1], life)
redis.call('ZADD', KEYS[2], ARGV[6], ARGV[1])
if redis.call('PTTL', KEYS[2]) < tonumber(life) then redis.call('PEXPIRE', KEYS[2], life) end
return 'done'";

/// KEYS: session, expiry. ARGV: id.
const DELETE: &str = "
redis.call('ZREM', KEYS[2], ARGV[1])
return redis.call('DEL', KEYS[1])";

/// Sessions in Redis.
#[derive(Clone)]
pub struct RedisSessions {
    connection: ConnectionManager,
    prefix: String,
    /// Host and port, for sentences: the URL may hold a password.
    server: String,
    create: Script,
    save: Script,
    delete: Script,
}

impl RedisSessions {
    /// Connects to `url` (`redis://[user:password@]host[:port][/db]`). Servers that share `prefix` share sessions. A
    /// connection that breaks later is made anew behind the scenes.
    ///
    /// # Errors
    /// `InvalidInput` for a malformed URL or a refused password, `Unavailable` or `TimedOut` where the server does not answer.
    pub async fn connect(url: &str, prefix: &str) -> Result<Self, PortError> {
        let malformed = |e: RedisError| {
            PortError::invalid("the redis url is malformed; it looks like redis://host:6379/0").with_source(e)
        };
        let info = url.into_connection_info().map_err(malformed)?;
        let server = info.addr().to_string();
        let client = Client::open(info).map_err(malformed)?;
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(ANSWER_TIMEOUT))
            .set_min_delay(Duration::from_millis(50))
            .set_max_delay(Duration::from_millis(500))
            .set_number_of_retries(2);
        let connection = ConnectionManager::new_with_config(client, config)
            .await
            .map_err(|e| fault(e, &format!("redis at {server}")))?;
        Ok(Self {
            connection,
            prefix: prefix.to_owned(),
            server,
            create: Script::new(CREATE),
            save: Script::new(SAVE),
            delete: Script::new(DELETE),
        })
    }

    fn key(&self, id: Uuid) -> String {
        format!("{}:session:{id}", self.prefix)
    }

    fn expiry(&self) -> String {
        format!("{}:expiry", self.prefix)
    }

    fn fault(&self, error: RedisError, key: &str) -> PortError {
        fault(error, &format!("redis at {}, key {key}", self.server))
    }
}

#[async_trait]
impl SessionStore for RedisSessions {
    async fn create(&self, record: SessionRecord, now: Timestamp, max_live: usize) -> Result<(), PortError> {
        let (id, key) = (record.id, self.key(record.id));
        let mut call = self.create.key(&key);
        call.key(self.expiry()).arg(id.to_string()).arg(record.version).arg(record.expires.0).arg(json(&record)?);
        call.arg(score(record.expires)).arg(score(now)).arg(max_live).arg(lifetime(record.expires, now));
        let mut connection = self.connection.clone();
        let said: String = call.invoke_async(&mut connection).await.map_err(|e| self.fault(e, &key))?;
        match said.as_str() {
            "done" => Ok(()),
            "exists" => Err(PortError::new(FaultKind::Conflict, format!("session {id} exists already"))),
            _ => Err(PortError::new(FaultKind::Capacity, format!("{max_live} sessions are alive, no more may be"))),
        }
    }

    async fn load(&self, id: Uuid) -> Result<Option<SessionRecord>, PortError> {
        let key = self.key(id);
        let mut connection = self.connection.clone();
        let stored: Option<Vec<u8>> = ::redis::cmd("HGET")
            .arg(&key)
            .arg("record")
            .query_async(&mut connection)
            .await
            .map_err(|e| self.fault(e, &key))?;
        let Some(stored) = stored else {
            return Ok(None);
        };
        let corrupt = || PortError::internal(format!("redis at {}: the record at {key} is corrupt", self.server));
        let record: SessionRecord = serde_json::from_slice(&stored).map_err(|e| corrupt().with_source(e))?;
        if record.id == id { Ok(Some(record)) } else { Err(corrupt()) }
    }

    async fn save(&self, mut record: SessionRecord) -> Result<u64, PortError> {
        let (id, key, before) = (record.id, self.key(record.id), record.version);
        let Some(version) = before.checked_add(1) else {
            return Err(PortError::invalid(format!("session {id} has no version after {before}")));
        };
        record.version = version;
        let mut call = self.save.key(&key);
        call.key(self.expiry()).arg(id.to_string()).arg(before).arg(version).arg(record.expires.0).arg(json(&record)?);
        call.arg(score(record.expires)).arg(milliseconds(GRACE)).arg(LONGEST);
        let mut connection = self.connection.clone();
        let said: String = call.invoke_async(&mut connection).await.map_err(|e| self.fault(e, &key))?;
        match said.as_str() {
            "done" => Ok(version),
            "gone" => Err(PortError::new(FaultKind::NotFound, format!("session {id} does not exist"))),
            _ => Err(PortError::new(FaultKind::Conflict, format!("session {id} is not at version {before} any more"))),
        }
    }

    async fn delete(&self, id: Uuid) -> Result<bool, PortError> {
        let key = self.key(id);
        let mut call = self.delete.key(&key);
        call.key(self.expiry()).arg(id.to_string());
        let mut connection = self.connection.clone();
        call.invoke_async(&mut connection).await.map_err(|e| self.fault(e, &key))
    }

    async fn expired(&self, now: Timestamp, limit: usize) -> Result<Vec<Uuid>, PortError> {
        let key = self.expiry();
        let mut connection = self.connection.clone();
        let ids: Vec<String> = ::redis::cmd("ZRANGEBYSCORE")
            .arg(&[key.as_str(), "-inf"])
            .arg(score(now))
            .arg("LIMIT")
            .arg(0)
            .arg(i64::try_from(limit).unwrap_or(i64::MAX))
            .query_async(&mut connection)
            .await
            .map_err(|e| self.fault(e, &key))?;
        let id = |text: String| {
            Uuid::parse_str(&text).map_err(|e| {
                PortError::internal(format!("redis at {}: {key} holds `{text:.40}`", self.server)).with_source(e)
            })
        };
        ids.into_iter().map(id).collect()
    }
}

impl std::fmt::Debug for RedisSessions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisSessions")
            .field("server", &self.server)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

fn json(record: &SessionRecord) -> Result<String, PortError> {
    serde_json::to_string(record)
        .map_err(|e| PortError::internal(format!("session {} cannot be written", record.id)).with_source(e))
}

fn score(time: Timestamp) -> u64 {
    time.0.min(LAST_SCORE)
}

/// How long Redis keeps a session's keys, in milliseconds.
fn lifetime(expires: Timestamp, now: Timestamp) -> u64 {
    expires.0.saturating_sub(now.0).saturating_add(milliseconds(GRACE)).min(LONGEST)
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn fault(error: RedisError, what: &str) -> PortError {
    use ServerErrorKind::{BusyLoading, ClusterDown, MasterDown, ReadOnly, TryAgain};
    let (kind, said) = match error.kind() {
        _ if error.is_timeout() => (FaultKind::TimedOut, "does not answer in time"),
        ErrorKind::AuthenticationFailed => (FaultKind::InvalidInput, "refuses the password"),
        ErrorKind::Server(BusyLoading | ClusterDown | MasterDown | ReadOnly | TryAgain) => {
            (FaultKind::Unavailable, "cannot serve now")
        }
        _ if error.is_io_error() || error.is_connection_dropped() => (FaultKind::Unavailable, "cannot be reached"),
        _ => (FaultKind::Internal, "answers with an error"),
    };
    PortError::new(kind, format!("{what} {said}: {error}")).with_source(error)
}
