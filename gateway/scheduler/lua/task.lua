-- Tasks: calls that the provider has accepted and not ended. A task keeps its place at the account until it ends, and
-- whichever process lives polls it.
-- ARGV[1]  what to do, with its further arguments:
--   note   ID of the lease, JSON of the task, after how long without renewal another process may take it over, and how
--          long the lease is held at most; microseconds
--   renew  the first of these times, IDs; returns those that Redis does not know, as it lost them or never got them
--   due    the first of these times, for which the caller takes over what it gets, and the limit on these
--   end    IDs
-- Returns  JSON: decision "done"; tasks: JSON of each that was due, or IDs
local act = ARGV[1]

local function note(id, task, renewed_us, held_us)
  redis.call('HSET', touch('tasks'), id, task)
  redis.call('ZADD', touch('tasks_due'), now + renewed_us, id)
  if redis.call('ZSCORE', K.leases, id) then redis.call('ZADD', touch('leases'), 'GT', now + held_us, id) end
end

local found = {decision = 'done', tasks = {}}
if act == 'note' then
  note(ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5]))
elseif act == 'renew' then
  for i = 3, #ARGV do
    if redis.call('HEXISTS', touch('tasks'), ARGV[i]) == 1 then
      redis.call('ZADD', touch('tasks_due'), now + tonumber(ARGV[2]), ARGV[i])
    else
      table.insert(found.tasks, ARGV[i])
    end
  end
elseif act == 'due' then
  -- After an outage, the processes that have them renew them first.
  local ids = in_grace() and {} or redis.call('ZRANGEBYSCORE', K.tasks_due, '-inf', now, 'LIMIT', 0, ARGV[3])
  for _, id in ipairs(ids) do
    local task = redis.call('HGET', K.tasks, id)
    if task then
      redis.call('ZADD', touch('tasks_due'), now + tonumber(ARGV[2]), id)
      table.insert(found.tasks, task)
    else
      redis.call('ZREM', K.tasks_due, id)
    end
  end
elseif act == 'end' then
  for i = 2, #ARGV do
    redis.call('HDEL', K.tasks, ARGV[i])
    redis.call('ZREM', K.tasks_due, ARGV[i])
  end
end
if #found.tasks == 0 then found.tasks = nil end
return reply(found)
