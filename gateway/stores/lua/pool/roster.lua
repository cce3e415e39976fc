-- Change which accounts and keys there are, or what people hold back of them.
-- ARGV[1]  "declare": ARGV[2] JSON of what stands in the configuration: {terms: {field of meta: number},
--                     accounts: {NAME: {requests_per_minute, images_per_minute, max_concurrency, weight,
--                                       keys: [{name, fingerprint}]}}}
--          "add":     ARGV[2] "ACCOUNT/KEY", ARGV[3] JSON: fingerprint, sealed, limits (for an account that is not declared)
--          "reseal":  the same, for one that is there
--          "remove":  ARGV[2] "ACCOUNT/KEY"
--          "hold":    ARGV[2] "ACCOUNT" or "ACCOUNT/KEY", ARGV[3] JSON: state, since_us, by; or "" to let go
--          "note":    ARGV[2] "ACCOUNT/KEY": for the audit only
--          "probed":  ARGV[2] "ACCOUNT/KEY", ARGV[3] JSON: what a free page said: works, fault (if it works, for what it
--                     rested), scope, state, seconds to rest on
-- ARGV[4..] for the audit: seconds for which it is kept, actor, action, key_id, after, request_id; none for what
--          no person did
-- Returns  JSON: verdict "done", "exists", "missing", "declared" (the configuration's own cannot be removed) or "unknown"
local act, subject, text = ARGV[1], ARGV[2], ARGV[3]

local function merged(name)
  local kept = redis.call('HGET', K.declared, name)
  local record = kept and cjson.decode(kept) or {keys = {}}
  local taken = {}
  for _, key in ipairs(record.keys) do taken[key.name] = true end
  local all = redis.call('HGETALL', K.added)
  for i = 1, #all, 2 do
    local owner, key_name = string.match(all[i], '^([^/]*)/(.*)$')
    if owner == name and not taken[key_name] then
      local added = cjson.decode(all[i + 1])
      if not kept then
        for field, value in pairs(added.limits) do record[field] = value end
      end
      record.keys[#record.keys + 1] = {name = key_name, fingerprint = added.fingerprint, is_added = true}
    end
  end
  if #record.keys == 0 then return nil end
  table.sort(record.keys, function(one, other) return one.name < other.name end)
  return record
end

-- A key with another secret starts with a clean record.
local function forget_rests(name, before, after)
  local fingerprints = {}
  for _, key in ipairs(after and after.keys or {}) do fingerprints[key.name] = key.fingerprint end
  local gone = {}
  for _, key in ipairs(before.keys) do
    if fingerprints[key.name] ~= key.fingerprint then gone[name .. '/' .. key.name] = true end
  end
  if not next(gone) and after then return end
  for _, field in ipairs(redis.call('HKEYS', K.health)) do
    if gone[string.match(field, '^[^|]*')] or (not after and field == name) then redis.call('HDEL', K.health, field) end
  end
end

local function rebuild(name)
  local kept, after = redis.call('HGET', K.roster, name), merged(name)
  local before = kept and cjson.decode(kept)
  if before then forget_rests(name, before, after) end
  if after then
    redis.call('HSET', touch('roster'), name, cjson.encode(after))
  else
    redis.call('HDEL', K.roster, name)
  end
  accounts[name] = nil
  local a = account(name)
  if a then
    put_back(a)
    if not a.record and #a.load.log == 0 and a.load.flying == 0 then redis.call('HDEL', K.loads, name) end
  end
end

-- How many slots an image is, from the accounts' limits; a call is one slot at least.
local function weigh()
  local requests, images = 0, 0
  local all = redis.call('HGETALL', K.roster)
  for i = 2, #all, 2 do
    local record = cjson.decode(all[i])
    requests, images = requests + record.requests_per_minute, images + record.images_per_minute
  end
  set_meta('slots_per_image', images > 0 and requests / images or 0)
end

local function declare()
  local said, names = cjson.decode(subject), {}
  for _, name in ipairs(redis.call('HKEYS', K.roster)) do names[name] = true end
  for _, name in ipairs(redis.call('HKEYS', K.loads)) do names[name] = true end
  local added = redis.call('HKEYS', K.added)
  for _, member in ipairs(added) do names[string.match(member, '^[^/]*')] = true end
  redis.call('DEL', K.declared)
  for name, record in pairs(said.accounts) do
    names[name] = true
    redis.call('HSET', touch('declared'), name, cjson.encode(record))
  end
  for field, value in pairs(said.terms) do set_meta(field, value) end
  for name in pairs(names) do rebuild(name) end
  return 'done'
end

local function owner_of(member) return string.match(member, '^[^/]*') end

local function is_there(member)
  local kept = redis.call('HGET', K.roster, owner_of(member))
  if not kept or owner_of(member) == member then return kept and true or false end
  for _, key in ipairs(cjson.decode(kept).keys) do
    if owner_of(member) .. '/' .. key.name == member then return true end
  end
  return false
end

local ACTS = {declare = declare}
local before = ''  -- for the audit

function ACTS.add()
  if is_there(subject) then return 'exists' end
  redis.call('HSET', K.added, subject, text)
  redis.call('HDEL', K.held, subject)
  rebuild(owner_of(subject))
  return 'done'
end

function ACTS.reseal()
  if redis.call('HEXISTS', K.added, subject) == 0 then return 'missing' end
  redis.call('HSET', K.added, subject, text)
  return 'done'
end

function ACTS.remove()
  local kept = redis.call('HGET', K.added, subject)
  if not kept then return is_there(subject) and 'declared' or 'missing' end
  before = cjson.encode({fingerprint = cjson.decode(kept).fingerprint})
  redis.call('HDEL', K.added, subject)
  redis.call('HDEL', K.held, subject)
  rebuild(owner_of(subject))
  return 'done'
end

function ACTS.hold()
  if not is_there(subject) then return 'missing' end
  local held = redis.call('HGET', K.held, subject)
  before = cjson.encode({state = held and cjson.decode(held).state or 'ready'})
  if text == '' then redis.call('HDEL', K.held, subject) else redis.call('HSET', K.held, subject, text) end
  local a = account(owner_of(subject))
  put_back(a)
  tell(subject, text == '' and 'ready' or cjson.decode(text).state, '')
  return 'done'
end

function ACTS.note() return is_there(subject) and 'done' or 'missing' end

-- Let what rests for a fault be tried, or rest on for so many seconds from now; a fault that is new rests by its scope.
function ACTS.probed()
  local said, name = cjson.decode(text), owner_of(subject)
  local by_scope = {key = subject, account = name, upstream = '*'}
  local is_known = false
  for _, field in pairs(by_scope) do
    local rest = rest_in(redis.call('HGET', K.health, field))
    if rest and rest.fault == said.fault and (not said.works or rest.state == 'quarantined') then
      is_known = true
      rest.until_us, rest.told = now + said.seconds * 1000000, nil
      keep_rest(field, rest)
      announce(field, rest)
    end
  end
  if not is_known and not said.works and by_scope[said.scope] then
    keep_rest(by_scope[said.scope], {state = said.state, fault = said.fault, seconds = said.seconds, since_us = now,
      until_us = now + said.seconds * 1000000})
    tell(by_scope[said.scope], said.state, said.fault)
  end
  local a = account(name)
  if a then put_back(a) end
  return 'done'
end

if act ~= 'declare' and not meta.version then return reply({verdict = 'unknown'}) end
local verdict = ACTS[act]()
if verdict == 'done' then
  weigh()
  set_meta('version', setting('version') + 1)
  if ARGV[4] then
    local oldest_ms = math.max(0, now / 1000000 - tonumber(ARGV[4])) * 1000
    redis.call('XADD', K.audit, 'MINID', '~', moment(oldest_ms), '*', 'actor', ARGV[5], 'action', ARGV[6], 'key_id',
      ARGV[7], 'before', before, 'after', ARGV[8], 'request_id', ARGV[9])
  end
  dispatch()
end
return reply({verdict = verdict})
