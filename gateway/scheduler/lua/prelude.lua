-- What the scripts of this folder share; it stands before each of them, after the table of states (domain/health.py).
--
-- One upstream's pool: accounts with keys, what each may still take, and which requests wait for that.
-- KEYS     names of one hash tag; pool/scripts.py lists them. The last is the day's.
-- Clock    the server's; moments and spans are microseconds
-- TTL      40 days from the last write, except what people set (added, held, audit)
--
-- An account's load, cmsgpack in `loads`:
--   log      flat list of t, c, n, s, oldest first: c requests with n images were sent at t (the latest of them); s is the
--            number of the entry, by which the leases of its requests find it
--   made     how many entries were made: the source of s
--   flying   its leases; each is one member of `leases` and one field of `leased`
--   last     key -> when it was used last
--   rate, rate_at, lanes, lanes_at   the estimated limits if they are below the configured ones, and since when
--   paced_at, paced_n   when the last paced request was due, and its images
--   kind, group, score, capacity, lanes_of   its place in the index, and its part of meta.capacity and of meta.lanes: see
--              serving.lua
local MINUTE = 60 * 1000000
local BATCH = 8             -- moments that one script looks after
local SKEW = 1000000        -- a clock that goes back by more was set
local SILENCE = 3 * 1000000 -- how late a heartbeat may be, which comes every quarter of a lease

redis.call('EXISTS', unpack(KEYS))  -- a cluster that moves one of them says so before anything is written
local base = string.match(KEYS[1], '^(.*:)[^:]*$')
local K = setmetatable({day = KEYS[#KEYS]}, {__index = function(_, name) return base .. name end})
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000000 + tonumber(clock[2])

local meta, changed, touched, events, accounts = {}, {}, {}, {}, {}
local before_reply = {}     -- functions that write what a script has gathered
local is_freed = false      -- whether this script gave an account room or health
do
  local kept = redis.call('HGETALL', K.meta)
  for i = 1, #kept, 2 do meta[kept[i]] = tonumber(kept[i + 1]) or kept[i + 1] end
end

local function touch(name)
  touched[name] = true
  return K[name]
end

local function setting(name) return meta[name] or 0 end

-- Written with the reply.
local function set_meta(name, value)
  meta[name] = value
  changed[name] = true
end

local function add_meta(name, more) set_meta(name, setting(name) + more) end

-- Read fields of a hash that are not in `cache` yet: it then has what `parse` makes of them, or false.
local function read_fields(cache, name, fields, parse)
  local FIELDS_MAX, missing = 1000, {}  -- that one command reads
  for _, field in ipairs(fields) do
    if cache[field] == nil then
      missing[#missing + 1] = field
      cache[field] = false
    end
  end
  for from = 1, #missing, FIELDS_MAX do
    local to = math.min(#missing, from + FIELDS_MAX - 1)
    local kept = redis.call('HMGET', K[name], unpack(missing, from, to))
    for i = from, to do
      local value = kept[i - from + 1]
      if value then cache[missing[i]] = parse and parse(value) or value end
    end
  end
end

local function window() return MINUTE + setting('margin_us') end

local function tell(subject, state, error_code)
  events[#events + 1] = {subject, state, error_code or ''}
end

local function moment(us) return string.format('%.0f', us) end

-- The reply of every script: JSON with a decision, and what changed its state meanwhile.
local function reply(found)
  local KEPT_S, STAYS = 40 * 24 * 60 * 60, {added = true, held = true, audit = true}
  for _, write in ipairs(before_reply) do write() end
  local fields = {}
  for name in pairs(changed) do
    fields[#fields + 1] = name
    fields[#fields + 1] = type(meta[name]) == 'number' and string.format('%.17g', meta[name]) or meta[name]
  end
  if #fields > 0 then redis.call('HSET', touch('meta'), unpack(fields)) end
  for name in pairs(touched) do
    if not STAYS[name] then redis.call('EXPIRE', K[name], KEPT_S) end
  end
  found.version = setting('version')
  if #events > 0 then found.events = events end
  return cjson.encode(found)
end

-- After an outage all processes have renewed their leases within this.
local function grace_us() return math.max(10 * 1000000, setting('lease_us') / 2) end

local function in_grace()
  local until_us = setting('grace_until')
  return until_us > now and until_us <= now + grace_us()
end
