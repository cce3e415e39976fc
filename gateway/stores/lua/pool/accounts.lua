-- Accounts: what each has sent in the last minute and has under way, what it may still take, and with which key.
-- Shared, after prelude.lua.

local function drop_old(load)
  local log, cut, from = load.log, now - window(), 1
  while log[from] and log[from] <= cut do from = from + 3 end
  if from == 1 then return end
  local kept = {}
  for i = from, #log do kept[#kept + 1] = log[i] end
  load.log = kept
end

local function sum_up(a)
  local requests, images, log = 0, 0, a.load.log
  for i = 1, #log, 3 do
    requests, images = requests + log[i + 1], images + log[i + 2]
  end
  a.requests, a.images = requests, images
end

local function account(name)
  if accounts[name] == nil then
    local record, kept = redis.call('HGET', K.roster, name), redis.call('HGET', K.loads, name)
    if record or kept then
      local a = {name = name, record = record and cjson.decode(record) or nil}
      a.load = kept and cmsgpack.unpack(kept) or {log = {}, flying = 0, last = {}}
      drop_old(a.load)
      sum_up(a)
      accounts[name] = a
    else
      accounts[name] = false
    end
  end
  return accounts[name]
end

-- What a lowered estimate has grown to: a tenth of the limit a minute, at least one.
local function grown(limit, kept, since)
  if not kept then return limit end
  local steps = math.floor((now - since) / MINUTE)
  return math.min(limit, kept + steps * math.max(1, math.floor(limit / 10)))
end

local function rate_of(a) return grown(a.record.requests_per_minute, a.load.rate, a.load.rate_at) end

local function lanes_of(a) return grown(a.record.max_concurrency, a.load.lanes, a.load.lanes_at) end

local function has_room(a)
  return a.requests < rate_of(a) and a.load.flying < lanes_of(a) and a.images < a.record.images_per_minute
end

-- How full it is, next to what it may take and its weight; among equals the one that was used longest ago.
local function fullness(a)
  local limit = a.record
  local share = math.max(a.requests / rate_of(a), a.images / limit.images_per_minute, a.load.flying / lanes_of(a))
  return math.floor(share * 10000 / limit.weight) + (a.load.used_at or 0) / 1e17
end

local function rests_of(a, model)
  local fields, holds = {a.name}, {a.name}
  for _, key in ipairs(a.record.keys) do
    local member = a.name .. '/' .. key.name
    holds[#holds + 1] = member
    fields[#fields + 1] = member
    fields[#fields + 1] = member .. '|' .. (model or '')
  end
  return fields, redis.call('HMGET', K.health, unpack(fields)), redis.call('HMGET', K.held, unpack(holds))
end

-- The key of an account whose turn it is, with the half-open rests that a lease of it would try: {field, rest}.
-- Without one, until when that is so: 0 where that is not known.
local function key_of(a, model, avoided)
  local fields, kept, held = rests_of(a, model)
  if held[1] or avoided[a.name .. '/'] then return nil, 0 end
  local rest = rest_in(kept[1])
  announce(fields[1], rest)
  local is_open, back = opens(rest)
  if not is_open then return nil, back, rest end
  local best, trials, oldest, soonest, why = nil, nil, math.huge, math.huge, nil
  for i, key in ipairs(a.record.keys) do
    local one, two = rest_in(kept[2 * i]), rest_in(kept[2 * i + 1])
    announce(fields[2 * i], one)
    announce(fields[2 * i + 1], two)
    local is_free, until_one = opens(one)
    local is_allowed, until_two = opens(two)
    if held[i + 1] or avoided[fields[2 * i]] then
      is_free = false
    elseif not (is_free and is_allowed) and math.max(until_one, until_two) < soonest then
      soonest = math.max(until_one, until_two)
      why = not is_free and (is_allowed or until_one >= until_two) and one or two
    end
    if is_free and is_allowed and not held[i + 1] and (a.load.last[key.name] or 0) < oldest then
      best, oldest = key, a.load.last[key.name] or 0
      trials = {}
      if rest then trials[#trials + 1] = {fields[1], rest} end
      if one then trials[#trials + 1] = {fields[2 * i], one} end
      if two then trials[#trials + 1] = {fields[2 * i + 1], two} end
    end
  end
  if best then return best, trials end
  return nil, soonest < math.huge and soonest or 0, why
end

-- Write an account back: whether it is ready, and when that may change by itself.
local function put_back(a)
  local load, next_us = a.load, math.huge
  local function at(us) if us > now and us < next_us then next_us = us end end
  if not a.record then
    redis.call('ZREM', touch('ready'), a.name)
    redis.call('ZREM', touch('turns'), a.name)
    redis.call('HSET', touch('loads'), a.name, cmsgpack.pack(load))
    return
  end
  if load.log[1] then at(load.log[1] + window()) end
  if load.rate then
    if rate_of(a) >= a.record.requests_per_minute then
      load.rate = nil
    else
      at(load.rate_at + (math.floor((now - load.rate_at) / MINUTE) + 1) * MINUTE)
    end
  end
  if load.lanes then
    if lanes_of(a) >= a.record.max_concurrency then
      load.lanes = nil
    else
      at(load.lanes_at + (math.floor((now - load.lanes_at) / MINUTE) + 1) * MINUTE)
    end
  end
  if load.flying > 0 then at(now + MINUTE) end  -- one of its calls ends, or its lease does
  local key, back = key_of(a, nil, {})
  if not key then at(back) end
  if key and has_room(a) then
    redis.call('ZADD', touch('ready'), fullness(a), a.name)
  else
    redis.call('ZREM', touch('ready'), a.name)
  end
  if next_us < math.huge then
    redis.call('ZADD', touch('turns'), next_us, a.name)
  else
    redis.call('ZREM', touch('turns'), a.name)
  end
  redis.call('HSET', touch('loads'), a.name, cmsgpack.pack(load))
end

local function write_down(a, images)
  local log, size = a.load.log, #a.load.log
  if size >= 3 * EXACT_MAX and math.floor(log[size - 2] / GRAIN) == math.floor(now / GRAIN) then
    log[size - 2], log[size - 1], log[size] = now, log[size - 1] + 1, log[size] + images
  else
    log[size + 1], log[size + 2], log[size + 3] = now, 1, images
  end
  a.requests, a.images = a.requests + 1, a.images + images
end

-- Likewise for a request of an earlier moment; in a long log it goes with the next one.
local function write_in(a, t, images)
  local log = a.load.log
  local at = #log + 1
  while at > 3 and log[at - 3] > t do at = at - 3 end
  if #log >= 3 * EXACT_MAX and log[at] then
    log[at + 1], log[at + 2] = log[at + 1] + 1, log[at + 2] + images
  else
    for i, value in ipairs({t, 1, images}) do table.insert(log, at + i - 1, value) end
  end
  a.requests, a.images = a.requests + 1, a.images + images
end

-- The opposite, for a request of the moment t that was not sent; what has left the log already is not in it.
local function cross_out(a, t, images)
  local log = a.load.log
  if t <= now - window() then return end
  for i = 1, #log, 3 do
    if log[i] >= t then
      log[i + 1], log[i + 2] = log[i + 1] - 1, log[i + 2] - images
      if log[i + 1] <= 0 then
        for _ = 1, 3 do table.remove(log, i) end
      end
      a.requests, a.images = a.requests - 1, a.images - images
      return
    end
  end
end
