-- What reading and claiming share: handing out entries in pages, until enough were found or enough bytes.
-- KEYS stream, meta and side stream of each partition. A side stream holds stubs: entries whose content PostgreSQL has.
-- A page is copied into Lua, so pages are small at first and then as large as what was seen allows; the bound on
-- bytes is passed by one page at most.
local RELEASED = '~os:released'
local FIRST_PAGE, LARGEST_PAGE = 8, 64

local group, consumer = ARGV[1], ARGV[2]
local wanted, room = tonumber(ARGV[3]), tonumber(ARGV[4])
local seen, seen_bytes = 0, 0
-- pages: {index of the partition, entries, delivery counts or 1, 1 for stubs}; vanished: pending entries that somebody
-- trimmed away
local pages, missing, vanished = {}, {}, 0

local function page_size()
  if seen == 0 then return math.min(wanted, FIRST_PAGE) end
  local fitting = math.floor(room / (seen_bytes / seen))
  return math.max(1, math.min(wanted, fitting, LARGEST_PAGE))
end

local function full()
  return wanted <= 0 or room <= 0
end

-- Partitions in the order to serve them: index, stream, meta, side stream or nil when there is none.
local function partitions()
  local index = 0
  return function()
    index = index + 1
    local stream, side = KEYS[3 * index - 2], KEYS[3 * index]
    if stream then return index, stream, KEYS[3 * index - 1], redis.call('EXISTS', side) == 1 and side or nil end
  end
end

local function hand_out(index, entries, counts, are_stubs)
  if #entries == 0 then return end
  local bytes = 0
  for _, entry in ipairs(entries) do
    for _, text in ipairs(entry[2]) do bytes = bytes + #text end
    bytes = bytes + 64
  end
  seen, seen_bytes = seen + #entries, seen_bytes + bytes
  wanted, room = wanted - #entries, room - bytes
  pages[#pages + 1] = { index, entries, counts, are_stubs and 1 or 0 }
end

-- Take over pending entries: [id, holder, idle, times handed out] each, as XPENDING gives them.
local function take_over(index, stream, pending, min_idle, are_stubs)
  local command, times = { 'XCLAIM', stream, group, consumer, min_idle }, {}
  for _, one in ipairs(pending) do
    command[#command + 1] = one[1]
    times[one[1]] = one[4]
  end
  local claimed, entries, counts = redis.call(unpack(command)), {}, {}
  for _, entry in ipairs(claimed) do
    if entry and entry[2] then
      entries[#entries + 1] = entry
      counts[#counts + 1] = times[entry[1]] + 1
      times[entry[1]] = nil
    end
  end
  -- XCLAIM forgets entries that are no longer in the stream; make sure, for servers that do not.
  for id in pairs(times) do
    redis.call('XACK', stream, group, id)
    vanished = vanished + 1
  end
  hand_out(index, entries, counts, are_stubs)
end

-- Entries that wait for whoever reads next. False when there is no such group.
local function take_released(index, stream, are_stubs)
  while not full() do
    local size = page_size()
    local pending = redis.pcall('XPENDING', stream, group, '-', '+', size, RELEASED)
    if pending.err then
      if string.sub(pending.err, 1, 7) == 'NOGROUP' then return false end
      error(pending)
    end
    if #pending > 0 then take_over(index, stream, pending, 0, are_stubs) end
    if #pending < size then return true end
  end
  return true
end
