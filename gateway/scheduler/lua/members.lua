-- Change the registered accounts and keys, or their states set by operators.
-- ARGV[1]  "declare": ARGV[2] JSON of a process's configuration: process, digest, until_us (its expiry without renewal),
--                     terms: {field of meta: number}, accounts: {NAME: {requests_per_minute, images_per_minute,
--                     max_concurrency, weight, keys: [{name, fingerprint}]}}
--          "renew", "withdraw": ARGV[2] JSON: process, digest, until_us
--          "add":     ARGV[2] "ACCOUNT/KEY", ARGV[3] JSON: fingerprint, sealed, limits (for an account that is not declared)
--          "reseal":  as "add", for an existing key
--          "remove":  ARGV[2] "ACCOUNT/KEY"
--          "hold":    ARGV[2] "ACCOUNT" or "ACCOUNT/KEY", ARGV[3] JSON: event (disable, drain, enable), since_us, by
--          "note":    ARGV[2] "ACCOUNT/KEY": for the audit log only
--          "probed":  ARGV[2] "ACCOUNT/KEY", ARGV[3] JSON, result of a key check: works, error_code (if it works: the reason
--                     of the cooldown), scope, state, further seconds of cooldown
-- ARGV[4..] audit: retention in seconds, actor, action, key_id, after, request_id; absent for changes without an operator
-- Returns  JSON: decision "done", "exists", "twin" (account, key: the one with the same secret), "missing", "declared" (a
--          configured key cannot be removed), "kept" (a renewal without changes) or "unknown"
local DIGESTS_MAX = 1000  -- configurations whose first registration is remembered
local act, subject, text = ARGV[1], ARGV[2], ARGV[3]

-- The configurations of all live processes, newest first: {accounts, terms, at}. Age counts from the first registration,
-- so a process that restarts with an old configuration does not make it the newest.
local function declarations()
  local living, found = {}, {}
  local holders = redis.call('ZRANGE', K.holders, 0, -1, 'WITHSCORES')
  for i = 1, #holders, 2 do
    local digest = string.match(holders[i], '^[^|]*')
    if tonumber(holders[i + 1]) > now then living[digest] = true else redis.call('ZREM', K.holders, holders[i]) end
  end
  local kept = redis.call('HGETALL', K.declared)
  for i = 1, #kept, 2 do
    if living[kept[i]] then
      local declaration = cjson.decode(kept[i + 1])
      declaration.at = tonumber(redis.call('ZSCORE', K.digests, kept[i]) or 0)
      found[#found + 1] = declaration
    else
      redis.call('HDEL', K.declared, kept[i])
    end
  end
  table.sort(found, function(one, other) return one.at > other.at end)
  return found
end

-- The merged account: limits of the newest configuration, keys of all.
local function merged(name, declared)
  local record, taken = nil, {}
  local function add(key, is_added)
    if taken[key.name] then return end
    taken[key.name] = true
    record.keys[#record.keys + 1] = {name = key.name, fingerprint = key.fingerprint, is_added = is_added}
  end
  local function begin(limits)
    record = {keys = {}}
    for field, value in pairs(limits) do
      if field ~= 'keys' then record[field] = value end
    end
  end
  for _, declaration in ipairs(declared) do
    local own = declaration.accounts[name]
    if own and not record then begin(own) end
    for _, key in ipairs(own and own.keys or {}) do add(key) end
  end
  local all = redis.call('HGETALL', K.added)
  for i = 1, #all, 2 do
    local owner, key_name = string.match(all[i], '^([^/]*)/(.*)$')
    if owner == name then
      local added = cjson.decode(all[i + 1])
      if not record then begin(added.limits) end
      add({name = key_name, fingerprint = added.fingerprint}, true)
    end
  end
  if record then table.sort(record.keys, function(one, other) return one.name < other.name end) end
  return record
end

-- A key with a new secret starts without cooldowns.
local function forget_rests(name, before, after)
  local fingerprints = {}
  for _, key in ipairs(after and after.keys or {}) do fingerprints[key.name] = key.fingerprint end
  local gone = {}
  for _, key in ipairs(before.keys) do
    if fingerprints[key.name] ~= key.fingerprint then gone[name .. '/' .. key.name] = true end
  end
  if not next(gone) and after then return end
  for _, field in ipairs(redis.call('HKEYS', K.health)) do
    if gone[string.match(field, '^[^|]*')] then
      move(field, 'replace')
    elseif not after and field == name then
      drop_rest(field)
    end
  end
end

-- `phase`, from 0 to 1, offsets the even paces of accounts.
local function rebuild(name, declared, phase)
  local kept, after = redis.call('HGET', K.roster, name), merged(name, declared)
  local before = kept and cjson.decode(kept)
  if after then after.phase = phase end
  if before then forget_rests(name, before, after) end
  if after then
    redis.call('HSET', touch('roster'), name, cjson.encode(after))
  else
    redis.call('HDEL', K.roster, name)
  end
  local a = accounts[name] or account(name)
  if a then
    a.record, a.standing, a.models = after, nil, nil
    put_back(a)
  end
end

-- Slots per image and per microsecond of concurrency, from the accounts' limits; a call is at least one slot.
local function weigh()
  local requests, images, lanes = 0, 0, 0
  local all = redis.call('HGETALL', K.roster)
  for i = 2, #all, 2 do
    local record = cjson.decode(all[i])
    requests, images, lanes = requests + record.requests_per_minute, images + record.images_per_minute, lanes + record.max_concurrency
  end
  set_meta('slots_per_image', images > 0 and requests / images or 0)
  set_meta('slots_per_us', lanes > 0 and math.min(requests / (lanes * MINUTE), 1 / SLOT_MIN) or 0)
end

-- Multiples of the golden ratio: any number of them are spread out.
local function phase_of(number) return (number - 1) * 0.6180339887 % 1 end

-- All present, former and new accounts.
local function rebuild_all(declared)
  local names = {}
  for _, set in ipairs({K.roster, K.loads}) do
    for _, name in ipairs(redis.call('HKEYS', set)) do names[name] = true end
  end
  for _, member in ipairs(redis.call('HKEYS', K.added)) do names[string.match(member, '^[^/]*')] = true end
  for _, declaration in ipairs(declared) do
    for name in pairs(declaration.accounts) do names[name] = true end
  end
  local sorted = {}
  for name in pairs(names) do sorted[#sorted + 1] = name end
  table.sort(sorted)
  for field, value in pairs(declared[1] and declared[1].terms or {}) do set_meta(field, value) end
  for i, name in ipairs(sorted) do rebuild(name, declared, phase_of(i)) end
end

-- A process has one configuration at a time.
local function hold_on(said)
  for _, holder in ipairs(redis.call('ZRANGE', K.holders, 0, -1)) do
    local digest, process = string.match(holder, '^([^|]*)|(.*)$')
    if process == said.process and digest ~= said.digest then redis.call('ZREM', K.holders, holder) end
  end
  redis.call('ZADD', touch('holders'), now + said.until_us, said.digest .. '|' .. said.process)
end

local function declare()
  local said = cjson.decode(subject)
  hold_on(said)
  redis.call('HSET', touch('declared'), said.digest, cjson.encode({accounts = said.accounts, terms = said.terms}))
  local newest = redis.call('ZRANGE', K.digests, -1, -1, 'WITHSCORES')[2]
  local at = math.max(now, tonumber(newest or 0) + 1)  -- even if the clock was set back
  redis.call('ZADD', touch('digests'), 'NX', at, said.digest)
  redis.call('ZREMRANGEBYRANK', K.digests, 0, -DIGESTS_MAX - 1)
  rebuild_all(declarations())
  return 'done'
end

-- Returns  "kept" without changes; "done" if other configurations have expired.
local function renew()
  local said = cjson.decode(subject)
  if redis.call('HEXISTS', K.declared, said.digest) == 0 then return 'unknown' end
  hold_on(said)
  local before = redis.call('HLEN', K.declared)
  local declared = declarations()
  if redis.call('HLEN', K.declared) == before then return 'kept' end
  rebuild_all(declared)
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

-- A process shuts down. Accounts only it had are removed at the next registration, because it may restart soon.
local function withdraw()
  local said = cjson.decode(subject)
  redis.call('ZREM', K.holders, said.digest .. '|' .. said.process)
  return 'kept'
end

local ACTS = {declare = declare, renew = renew, withdraw = withdraw}
local before = ''  -- for the audit log

-- A key with the same secret: its account's limits would count twice.
local function twin_of(fingerprint)
  local all = redis.call('HGETALL', K.roster)
  for i = 1, #all, 2 do
    for _, key in ipairs(cjson.decode(all[i + 1]).keys) do
      if key.fingerprint == fingerprint then return {decision = 'twin', account = all[i], key = key.name} end
    end
  end
end

function ACTS.add()
  if is_there(subject) then return 'exists' end
  local twin = twin_of(cjson.decode(text).fingerprint)
  if twin then return 'twin', twin end
  redis.call('HSET', K.added, subject, text)
  redis.call('HDEL', K.held, subject)
  rebuild(owner_of(subject), declarations(), phase_of(1 + redis.call('HLEN', K.roster)))
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
  rebuild(owner_of(subject), declarations(), phase_of(1 + redis.call('HLEN', K.roster)))
  return 'done'
end

-- Ends cooldowns now: the operator knows that the cause is fixed.
local function lift_all(member)
  for _, field in ipairs(redis.call('HKEYS', K.health)) do
    local owner = string.match(field, '^[^|]*')
    if (owner == member or owner_of(owner) == member) and is_out(rest_at(field)) then move(field, 'enable') end
  end
end

function ACTS.hold()
  if not is_there(subject) then return 'missing' end
  local said, held = cjson.decode(text), redis.call('HGET', K.held, subject)
  local state = held and cjson.decode(held).state or 'ready'
  local after = HOLDS[state][said.event]
  before = cjson.encode({state = state})
  if after == 'ready' then
    redis.call('HDEL', K.held, subject)
    lift_all(subject)
  else
    redis.call('HSET', K.held, subject, cjson.encode({state = after, since_us = said.since_us, by = said.by}))
  end
  put_back(account(owner_of(subject)))
  if held or after ~= 'ready' then tell(subject, after, '') end
  return 'done'
end

function ACTS.note() return is_there(subject) and 'done' or 'missing' end

-- Applies a key check: cooldowns for its error_code become half-open, or continue for the given seconds from now and for
-- all tenants. A new error_code starts a cooldown of its scope. One key that works speaks for the upstream; one that does
-- not, does not.
function ACTS.probed()
  local said, name = cjson.decode(text), owner_of(subject)
  local by_scope = {key = subject, account = name, upstream = '*'}
  local is_known = false
  for scope, field in pairs(by_scope) do
    local rest = rest_at(field)
    local concerns = said.works and not (rest and rest.busy) or scope ~= 'upstream' or said.scope == 'upstream'
    if rest and rest.error_code == said.error_code and concerns then
      is_known = true
      if said.works then
        move(field, 'check_passed')
      else
        rest.until_us, rest.seconds, rest.told, rest.by = now + said.seconds * 1000000, said.seconds, nil, nil
        keep_rest(field, rest)
        announce(field, rest)
      end
    end
  end
  if not is_known and not said.works and by_scope[said.scope] then
    move(by_scope[said.scope], said.state == 'quarantined' and 'quarantine' or 'cool', said)
  end
  local a = account(name)
  if a then put_back(a) end
  return 'done'
end

if act ~= 'declare' and not meta.version then return reply({decision = 'unknown'}) end
local decision, found = ACTS[act]()
if decision == 'done' then
  weigh()
  set_meta('version', setting('version') + 1)
  if ARGV[4] then
    local oldest_ms = math.max(0, now / 1000000 - tonumber(ARGV[4])) * 1000
    redis.call('XADD', K.audit, 'MINID', '~', moment(oldest_ms), '*', 'actor', ARGV[5], 'action', ARGV[6], 'key_id',
      ARGV[7], 'before', before, 'after', ARGV[8], 'request_id', ARGV[9])
  end
  dispatch_freed()
end
return reply(found or {decision = decision})
