-- What the scripts of this folder share. It precedes each of them, after the tables of states (domain/health.py).
--
-- One upstream's pool: accounts with keys, what each may still take, and which requests wait for that.
-- KEYS     names of one hash tag; scheduler/scripts.py lists them. The last is the day's.
-- Clock    the server's; moments and spans are microseconds
-- TTL      40 days from the last write, except what operators set (added, held, audit)
--
-- An account's load, cmsgpack in `loads`:
--   log        flat list of t, c, n, s, oldest first: c requests with n images were sent at t (the latest of them);
--              the leases of these requests find the entry by its number s
--   made       how many entries were made: the source of s
--   in_flight  its leases; each is one member of `leases` and one field of `leased`
--   last       key -> when it was used last
--   rate, rate_at, concurrency, concurrency_at   the estimated limits if below the configured ones, and since when
--   paced_at, paced_n   when the last paced request was due, and its images; batch_at, batch_n of one for a batch
--   kind, group, score, sums   its place in the index, and its part of the sums in meta: see serving.lua
local MINUTE = 60 * 1000000
local HISTORY_MAX = 50      -- states of a key that are kept
local BATCH = 8             -- expired leases, and waiters of dead processes that one script handles
local SKEW = 1000000        -- a clock that goes back by more was set
local SILENCE = 3 * 1000000 -- how late a heartbeat may be, which comes every quarter of a lease

redis.call('EXISTS', unpack(KEYS))  -- a cluster that moves one of them says so before anything is written
local base = string.match(KEYS[1], '^(.*:)[^:]*$')
local K = setmetatable({day = KEYS[#KEYS]}, {__index = function(all, name)
  all[name] = base .. name
  return all[name]
end})
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000000 + tonumber(clock[2])

local meta, former, touched, events = {}, {}, {}, {}  -- former: values of changed fields of meta
local operator, held_subject  -- who changes which state in this script, if an operator does
local before_reply          -- writes what a script has gathered
local is_freed = false      -- whether this script gave an account capacity or health

-- Calls visit(field, value) for each field of a hash.
local function each_field(key, visit)
  local kept = redis.call('HGETALL', key)
  for i = 1, #kept, 2 do visit(kept[i], kept[i + 1]) end
end
each_field(K.meta, function(field, value) meta[field] = tonumber(value) or value end)

local function touch(name)
  touched[name] = true
  return K[name]
end

local function setting(name) return meta[name] or 0 end

-- Written with the reply.
local function set_meta(name, value)
  if former[name] == nil then former[name] = meta[name] or false end
  meta[name] = value
end

local function add_meta(name, more) set_meta(name, setting(name) + more) end

-- A hash that is read once: a field is what `parse` makes of it, or false. `read` reads many fields at once.
local function cached(name, parse)
  local FIELDS_MAX, cache = 1000, {}  -- that one command reads
  local function read(fields)
    local missing = {}
    for _, field in ipairs(fields) do
      if rawget(cache, field) == nil then
        missing[#missing + 1] = field
        cache[field] = false
      end
    end
    for from = 1, #missing, FIELDS_MAX do
      local to = math.min(#missing, from + FIELDS_MAX - 1)
      local kept = redis.call('HMGET', K[name], unpack(missing, from, to))
      for i = from, to do
        local value = kept[i - from + 1]
        if value then cache[missing[i]] = parse(value) end
      end
    end
  end
  return setmetatable(cache, {__index = function(_, field)
    read({field})
    return rawget(cache, field)
  end}), read
end

local function set_of(list)
  local found = {}
  for _, name in ipairs(list) do found[name] = true end
  return found
end

-- Whether interactive requests came lately: what is idle is then not all for batches.
local function is_interactive() return math.abs(now - setting('interactive_at')) < 5 * MINUTE end

local function window() return MINUTE + setting('margin_us') end

local function emit(subject, state, error_code) events[#events + 1] = {subject, state, error_code or ''} end

local function moment(us) return string.format('%.0f', us) end

-- Keeps the latest states of each key, account and upstream; see scheduler/history.py.
local function keep_history()
  for _, event in ipairs(events) do
    local member, model = string.match(event[1], '^([^|]*)|?(.*)$')
    local name, is_held = 'history:' .. member, operator and string.find(member, held_subject, 1, true) == 1
    redis.call('LPUSH', touch(name), cjson.encode({at_ms = math.floor(now / 1000), state = event[2],
      error_code = event[3], model = model, actor = is_held and operator or ''}))
    redis.call('LTRIM', K[name], 0, HISTORY_MAX - 1)
  end
end

-- The reply of every script: JSON with a decision, and the state changes that it made.
local function reply(found)
  local TTL_S, fields = 40 * 24 * 60 * 60, {}
  if before_reply then before_reply() end
  keep_history()
  for name, value in pairs(former) do
    if meta[name] ~= value then
      fields[#fields + 1] = name
      fields[#fields + 1] = type(meta[name]) == 'number' and string.format('%.17g', meta[name]) or meta[name]
    end
  end
  if #fields > 0 then redis.call('HSET', touch('meta'), unpack(fields)) end
  for name in pairs(touched) do redis.call('EXPIRE', K[name], TTL_S) end
  found.version = setting('version')
  if #events > 0 then found.events = events end
  return cjson.encode(found)
end

if not meta.version and ARGV[1] ~= 'declare' then return reply({decision = 'unknown'}) end

-- All processes renew their leases within this time after an outage.
local function grace_us() return math.max(10 * 1000000, setting('lease_us') / 2) end

local function in_grace()
  local until_us = setting('grace_until')
  return until_us > now and until_us <= now + grace_us()
end
