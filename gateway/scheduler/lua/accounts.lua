-- Accounts: what each has sent in the last minute and has in flight, and what it may still take.
-- Shared, after health.lua.
local EXACT_MAX = 64        -- entries of a log that are kept one by one; more are merged
local GRAIN = MINUTE / 256  -- into spans of this length

-- Entries from a clock that was ahead: of more than a window ahead nothing is known, and they are dropped; others count
-- from now on, so that no minute is given out twice.
local function drop_old(a)
  local load, log, size, span = a.load, a.load.log, #a.load.log, window()
  if size > 0 and (log[1] <= now - span or log[size - 3] > now) then
    local kept, at = {}, 0
    for i = 1, size, 4 do
      local t = log[i]
      if t > now - span and t <= now + span then
        kept[at + 1], kept[at + 2], kept[at + 3], kept[at + 4] = math.min(t, now), log[i + 1], log[i + 2], log[i + 3]
        at = at + 4
      end
    end
    load.log = kept
  end
  a.requests, a.images = 0, 0
  for i = 1, #load.log, 4 do
    a.requests, a.images = a.requests + load.log[i + 1], a.images + load.log[i + 2]
  end
  for _, name in ipairs({'paced_at', 'rate_at', 'lanes_at'}) do
    if load[name] and load[name] > now then load[name] = now end
  end
end

local records, loads = {}, {}  -- that were read

local function read_accounts(names)
  read_fields(records, 'roster', names, cjson.decode)
  read_fields(loads, 'loads', names, cmsgpack.unpack)
  for _, name in ipairs(names) do
    if accounts[name] == nil then
      local a = {name = name, record = records[name] or nil, load = loads[name] or {log = {}, flying = 0, last = {}, made = 0}}
      drop_old(a)
      accounts[name] = (records[name] or loads[name]) and a
    end
  end
end

local function account(name)
  if accounts[name] == nil then read_accounts({name}) end
  return accounts[name]
end

-- A lowered estimate, with its recovery: a tenth of the limit per minute, at least one.
local function grown(limit, kept, since)
  if not kept then return limit end
  local steps = math.max(0, math.floor((now - since) / MINUTE))
  return math.max(1, math.min(limit, kept + steps * math.max(1, math.floor(limit / 10))))
end

local function rate_of(a) return grown(a.record.requests_per_minute, a.load.rate, a.load.rate_at) end

local function lanes_of(a) return grown(a.record.max_concurrency, a.load.lanes, a.load.lanes_at) end

local function has_room(a, images)
  return a.requests < rate_of(a) and a.load.flying < lanes_of(a) and a.images + images <= a.record.images_per_minute
end

-- Returns when it has capacity for a call of n images, as long as calls last; and when by its minute alone.
local function room_at(a, images)
  local log, free, missing = a.load.log, rate_of(a) - a.requests, a.images + images - a.record.images_per_minute
  local at, span = now, window()
  for i = 1, #log, 4 do
    if free >= 1 and missing <= 0 then break end
    free, missing, at = free + log[i + 1], missing - log[i + 2], log[i] + span
  end
  if free < 1 or missing > 0 then at = now + span end  -- a call that is only supposed counts, and is not in the log
  local minute_at = math.max(now, at)
  if a.load.flying < lanes_of(a) then return minute_at, minute_at end
  return math.max(minute_at, now + setting('call_us') / math.max(1, a.load.flying)), minute_at
end

-- Returns true if a call now would delay the capacity for another one of n images.
local function puts_off(a, images, others)
  local function ask()
    local _, minute_at = room_at(a, others)
    return a.load.flying < lanes_of(a), minute_at
  end
  local had_lane, before = ask()
  a.requests, a.images, a.load.flying = a.requests + 1, a.images + images, a.load.flying + 1
  local has_lane, after = ask()
  a.requests, a.images, a.load.flying = a.requests - 1, a.images - images, a.load.flying - 1
  return after > before or (had_lane and not has_lane)
end

-- The even pace: from when on a request over its tenant's share may be sent, and the span between two of them. The room
-- that is left is spread until more gets free, so that a tenant below its share finds some at any moment.
local function pace_of(a)
  local load, log = a.load, a.load.log
  if setting('paced') <= 0 or #log == 0 then return now, 0 end
  local LAST = 2          -- requests that an account has left, which are kept for tenants below their share
  local LAST_SPAN = 1.15  -- until more becomes free within this many even spans for each of them
  local minute = window()
  local is_paced = load.paced_at and load.paced_at > now - minute
  local from, span = is_paced and load.paced_at or log[#log - 3], 0
  local rate, cost = rate_of(a), load.paced_n or 1
  local free, requests, images = rate - a.requests, rate - a.requests, a.record.images_per_minute - a.images
  for i = 1, #log, 4 do
    local left = log[i] + minute - from
    if requests + 1 > 0 and left > span * (requests + 1) then span = left / (requests + 1) end
    if images + cost > 0 and left * cost > span * (images + cost) then span = left * cost / (images + cost) end
    requests, images = requests + log[i + 1], images + log[i + 2]
  end
  local due = from + span * (is_paced and 1 or 1 - (a.record.phase or 0))
  if free <= LAST then due = math.max(due, log[1] + minute - free * LAST_SPAN * minute / rate) end
  return due, span
end

-- Utilisation relative to its limits and weight, 0 to 10,000.
local function fullness(a)
  local limit = a.record
  local share = math.max(a.requests / rate_of(a), a.images / limit.images_per_minute, a.load.flying / lanes_of(a))
  return math.floor(share * 10000 / limit.weight)
end

-- Counts a request as sent now. Returns the number of its entry.
local function write_down(a, images)
  local load, log, size = a.load, a.load.log, #a.load.log
  a.requests, a.images = a.requests + 1, a.images + images
  if size >= 4 * EXACT_MAX and math.floor(log[size - 3] / GRAIN) == math.floor(now / GRAIN) then
    log[size - 3], log[size - 2], log[size - 1] = now, log[size - 2] + 1, log[size - 1] + images
    return log[size]
  end
  load.made = load.made + 1
  log[size + 1], log[size + 2], log[size + 3], log[size + 4] = now, 1, images, load.made
  return load.made
end

-- Counts a request as sent at an earlier time; in a long log it counts with the next entry.
local function write_in(a, t, images)
  local log = a.load.log
  local at = #log + 1
  while at > 4 and log[at - 4] > t do at = at - 4 end
  a.requests, a.images = a.requests + 1, a.images + images
  if #log >= 4 * EXACT_MAX and log[at] then
    log[at + 1], log[at + 2] = log[at + 1] + 1, log[at + 2] + images
    return log[at + 3]
  end
  a.load.made = a.load.made + 1
  for i, value in ipairs({t, 1, images, a.load.made}) do table.insert(log, at + i - 1, value) end
  return a.load.made
end

-- Removes the entry of an unsent request by its number, unless it has left the log.
local function cross_out(a, number, images)
  local log = a.load.log
  for i = 1, #log, 4 do
    if log[i + 3] == number then
      log[i + 1], log[i + 2] = log[i + 1] - 1, log[i + 2] - images
      a.requests, a.images = a.requests - 1, a.images - images
      if log[i + 1] <= 0 then
        for _ = 1, 4 do table.remove(log, i) end
      end
      return
    end
  end
end
