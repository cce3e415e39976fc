-- What the scripts of this folder share; it stands before each of them.
--
-- One upstream's pool: accounts with keys, what each may still take, and who waits for that.
-- KEYS     the names in NAMES below, of one hash tag; pool/scripts.py says what each is
-- Clock    the server's; moments and spans are microseconds
-- TTL      whatever is written lives KEPT_S on, but what people said (added, held), which stays
--
-- An account's load, cmsgpack in `loads`:
--   log      flat list of t, c, n: at t (the latest of them) c requests with n images were sent; oldest first
--   flying   leases on it; each is one member of `leases` and one field of `leased`
--   last     key -> when it was used last
--   rate, rate_at, lanes, lanes_at   what it seems to allow where that is less than it should, and since when
-- A rest, JSON in `health` under "*" (the upstream), ACCOUNT, ACCOUNT/KEY or ACCOUNT/KEY|MODEL:
--   state, fault, since_us, until_us, seconds, busy; when until_us is over it is half open: one lease, its probe, may try
local NAMES = {'roster', 'declared', 'holders', 'added', 'held', 'health', 'loads', 'ready', 'turns', 'leases', 'leased', 'line',
  'places', 'active', 'idle', 'weights', 'processes', 'grants', 'meta', 'audit', 'day'}
local KEPT_S = 40 * 24 * 60 * 60
local STAYS = {added = true, held = true, audit = true}
local MINUTE = 60 * 1000000
local EXACT_MAX = 64        -- entries of a log that are kept one by one; more are merged
local GRAIN = MINUTE / 256  -- into spans of this length
local BATCH = 32            -- moments that one script looks after

local K = {}
for i, name in ipairs(NAMES) do K[name] = KEYS[i] end
redis.call('EXISTS', unpack(KEYS))  -- a cluster that moves one of them says so before anything is written
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000000 + tonumber(clock[2])

local meta, touched, events, accounts = {}, {}, {}, {}
do
  local kept = redis.call('HGETALL', K.meta)
  for i = 1, #kept, 2 do meta[kept[i]] = kept[i + 1] end
end

local function touch(name)
  touched[name] = true
  return K[name]
end

local function setting(name) return tonumber(meta[name]) or 0 end

local function set_meta(name, value)
  meta[name] = value
  redis.call('HSET', touch('meta'), name, value)
end

local function window() return MINUTE + setting('margin_us') end

local function tell(subject, state, fault)
  events[#events + 1] = {subject, state, fault or ''}
end

local function moment(us) return string.format('%.0f', us) end

-- The answer of every script: JSON with a verdict, and what changed its state meanwhile.
local function reply(found)
  for name in pairs(touched) do
    if not STAYS[name] then redis.call('EXPIRE', K[name], KEPT_S) end
  end
  found.version = setting('version')
  if #events > 0 then found.events = events end
  return cjson.encode(found)
end

-- Rests ---------------------------------------------------------------------------------------------------------------

local function rest_in(text) return text and cjson.decode(text) or nil end

local function keep_rest(field, rest) redis.call('HSET', touch('health'), field, cjson.encode(rest)) end

-- Whether somebody may use what rests, and if not, until when; a rest that has no end to name gives 0.
local function opens(rest)
  if not rest then return true, 0 end
  if rest.until_us > now then return false, rest.until_us end
  if rest.probe and redis.call('ZSCORE', K.leases, rest.probe) then return false, 0 end
  return true, 0
end

local function announce(field, rest)
  if rest and rest.until_us <= now and not rest.told then
    rest.told = true
    keep_rest(field, rest)
    tell(field, 'half_open', rest.fault)
  end
end

-- How many leases the upstream as a whole lets through now, and if none, until when.
local function gate()
  local rest = rest_in(redis.call('HGET', K.health, '*'))
  if not rest then return math.huge, 0 end
  announce('*', rest)
  local is_open, back = opens(rest)
  return is_open and 1 or 0, back
end
